//! The cache byte by byte: whatever happened to it, it gives the state that was written or a fault.

use std::time::SystemTime;

use pennon_evaluator::{AgeBound, Freshness};
use proptest::prelude::*;

use super::file::CacheFile;
use super::*;
use crate::states::{environment, snapshot};

pub(super) fn identity(application: Option<&str>) -> Identity {
    Identity {
        environment: environment(),
        application: application.map(str::to_owned),
    }
}

pub(super) fn held(at: u64) -> Held {
    let loaded = Snapshot::load(&snapshot(0, at)).unwrap();
    let proof = AgeBound::new(Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let bound = Duration::from_secs(10);
    Held::new(loaded, "A".into(), proof, bound, None)
}

pub(super) fn bytes(at: u64, application: Option<&str>) -> Vec<u8> {
    let written = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
    encode(&held(at), &identity(application), written).unwrap()
}

/// The same bytes with a checksum that fits.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let crc = crc(&bytes).to_le_bytes();
    bytes[12..16].copy_from_slice(&crc);
    bytes
}

fn fault(bytes: &[u8], application: Option<&str>) -> CacheFault {
    decode(bytes, &identity(application)).unwrap_err().fault()
}

#[test]
fn what_is_written_is_read_back_and_is_stale() {
    for application in [None, Some("checkout"), Some("")] {
        let read = decode(&bytes(5, application), &identity(application)).unwrap();
        assert_eq!(read.snapshot.version().get(), 5);
        assert_eq!(read.snapshot.digest(), snapshot(0, 5).digest());
        assert_eq!(read.cluster_id.as_deref(), Some("A"));
        assert_eq!(read.bound, Duration::from_secs(10));
        let since_1970 = read.written.unwrap().duration_since(SystemTime::UNIX_EPOCH);
        assert_eq!(since_1970.unwrap().as_secs(), 1_790_000_000);
        // I5: whatever the clock says.
        let held = Held::restored(read, Some(Duration::MAX));
        for now in [Duration::ZERO, Duration::from_secs(1), Duration::MAX] {
            assert_eq!(held.freshness(now).1, Freshness::Stale);
            assert_eq!(held.age_max(now), None);
        }
    }
}

// I5
#[test]
fn no_time_of_day_makes_a_cache_fresh() {
    let century = Duration::from_secs(100 * 365 * 86_400);
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
    for written in [now, now + century, SystemTime::UNIX_EPOCH] {
        let bytes = encode(&held(5), &identity(None), written).unwrap();
        let read = decode(&bytes, &identity(None)).unwrap();
        let held = Held::restored(read, Some(Duration::MAX));
        for now in [Duration::ZERO, century, Duration::MAX] {
            assert_eq!(held.freshness(now).1, Freshness::Stale, "{written:?}");
        }
    }
}

// I6
#[test]
fn no_damage_to_any_byte_gives_a_state() {
    let good = bytes(5, None);
    for at in 0..good.len() {
        for change in [1, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] ^= change;
            assert_eq!(
                fault(&bad, None),
                CacheFault::Damaged,
                "byte {at} ^ {change}"
            );
        }
        assert_eq!(fault(&good[..at], None), CacheFault::Damaged, "cut at {at}");
    }
    let longer = [&good[..], &[0]].concat();
    assert_eq!(fault(&longer, None), CacheFault::Damaged);
}

/// Damage that a checksum does not see: the layers below have their own checks.
#[test]
fn no_damage_under_a_good_checksum_gives_another_state() {
    let good = bytes(5, Some("shop"));
    for at in (0..8).chain(HEADER_LEN..good.len()) {
        for change in [1, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] ^= change;
            if let Ok(read) = decode(&sealed(bad), &identity(Some("shop"))) {
                assert_eq!(read.snapshot.digest(), snapshot(0, 5).digest(), "byte {at}");
                assert_eq!(read.snapshot.version().get(), 5, "byte {at}");
                // Only the time that is shown to people has no check of its own.
                assert!(at < HEADER_LEN + 8, "byte {at}");
            }
        }
        let cut = good[..at.max(HEADER_LEN)].to_vec();
        assert_eq!(fault(&sealed(cut), Some("shop")), CacheFault::Damaged);
    }
    let longer = sealed([&good[..], &[0]].concat());
    assert_eq!(fault(&longer, Some("shop")), CacheFault::Damaged);
}

#[test]
fn what_is_of_something_else_is_said_by_name() {
    let mut newer = bytes(5, None);
    newer[8] = 2;
    assert_eq!(fault(&sealed(newer), None), CacheFault::NewerFormat);
    for (written, read) in [
        (None, Some("shop")),
        (Some("shop"), None),
        (Some("shop"), Some("shops")),
        (Some(""), None),
    ] {
        let warning = decode(&bytes(5, written), &identity(read)).unwrap_err();
        assert_eq!(warning.fault(), CacheFault::OtherApplication);
        let text = warning.to_string();
        assert!(text.starts_with("other-application: it is of "), "{text}");
    }
    let mut elsewhere = identity(None);
    elsewhere.environment = EnvironmentKey::try_from("staging").unwrap();
    let warning = decode(&bytes(5, None), &elsewhere).unwrap_err();
    let text = "other-environment: it is of production, not of staging";
    assert_eq!(warning.to_string(), text);
}

proptest! {
    #[test]
    fn no_bytes_panic(body in prop::collection::vec(any::<u8>(), 0..200), format in 0_u8..3) {
        prop_assert!(decode(&body, &identity(None)).is_err());
        let header = [&MAGIC[..], &[format, 0, 0, 0], &[0; 4]].concat();
        let sealed = sealed([header, body].concat());
        prop_assert!(decode(&sealed, &identity(None)).is_err());
    }
}

#[test]
fn a_file_is_replaced_whole_and_only_by_who_holds_its_lock() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("flags");
    let one = CacheFile::new(path.clone(), identity(None));
    let unread = one.save(&held(5)).unwrap_err();
    assert_eq!(
        unread.fault(),
        CacheFault::NotWritten,
        "it was not read yet"
    );
    assert!(matches!(one.load(), (None, None)));
    one.save(&held(5)).unwrap();

    let other = CacheFile::new(path.clone(), identity(None));
    let (read, warning) = other.load();
    assert_eq!(read.unwrap().snapshot.version().get(), 5);
    assert_eq!(warning.unwrap().fault(), CacheFault::InUse);
    assert!(other.save(&held(4)).is_err(), "it would put 5 back"); // I6
    drop(one);
    let third = CacheFile::new(path.clone(), identity(None));
    assert!(matches!(third.load(), (Some(_), None)));
    third.save(&held(7)).unwrap();
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(left.len(), 2, "the cache and its lock: {left:?}");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn what_is_not_this_clients_is_left_alone_and_what_is_damaged_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("flags");
    let mut newer = bytes(5, None);
    newer[8] = 2;
    for (before, expected, replaced) in [
        (sealed(newer), CacheFault::NewerFormat, false),
        (bytes(5, Some("shop")), CacheFault::OtherApplication, false),
        (bytes(5, None)[..40].to_vec(), CacheFault::Damaged, true),
        (b"something else".to_vec(), CacheFault::Damaged, true),
    ] {
        std::fs::write(&path, &before).unwrap();
        let file = CacheFile::new(path.clone(), identity(None));
        let (read, warning) = file.load();
        let warning = warning.unwrap();
        assert_eq!((read.is_none(), warning.fault()), (true, expected));
        let text = warning.to_string();
        assert!(text.contains(&path.display().to_string()), "{text}");
        assert_eq!(file.save(&held(7)).is_ok(), replaced, "{text}");
        assert_eq!(std::fs::read(&path).unwrap() == before, !replaced, "{text}");
    }
    // A directory in its place.
    let file = CacheFile::new(directory.path().to_owned(), identity(None));
    assert_eq!(file.load().1.unwrap().fault(), CacheFault::Unreadable);
    assert!(file.save(&held(7)).is_err());
    // No directory at all: nothing is read, and it is said that nothing can be written.
    let file = CacheFile::new(directory.path().join("a/b"), identity(None));
    let (read, warning) = file.load();
    assert_eq!(warning.unwrap().fault(), CacheFault::NotWritten);
    assert!(read.is_none() && file.save(&held(7)).is_err());
}
