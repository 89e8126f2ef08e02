//! The library in a process of its own: this test binary again, as a child that works on files.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::process::{Command, Output};
use std::time::UNIX_EPOCH;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::undo::Lost;
use super::*;

const CHILD: &str = "SHIM_CHILD";
const EIO: i32 = 5;
const EROFS: i32 = 30;

/// What the child does, by the name in its environment; nothing in any other process.
#[test]
fn child() {
    let Ok(part) = std::env::var(CHILD) else {
        return;
    };
    let data = PathBuf::from(std::env::var_os("FAULT_DATA").unwrap());
    let open = |name: &str| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        options.open(data.join(name))
    };
    match part.as_str() {
        "sync" => {
            let mut file = open("log/a").unwrap();
            file.write_all(b"one").unwrap();
            println!("{:?}", file.sync_data().map_err(|why| why.raw_os_error()));
            println!("{:?}", file.sync_data().map_err(|why| why.raw_os_error()));
        }
        "read-only" => {
            let made = open("new").map(drop).map_err(|why| why.raw_os_error());
            let moved = std::fs::rename(data.join("log/a"), data.join("log/b"));
            println!("{made:?} {:?}", moved.map_err(|why| why.raw_os_error()));
            // What is not the node's is as ever.
            File::create(data.with_extension("elsewhere")).unwrap();
        }
        "write" => {
            for number in 0..10u8 {
                let file = open("log/a").unwrap();
                file.write_all_at(&[b'0' + number; 4], 4 * u64::from(number))
                    .unwrap();
            }
        }
        "clock" => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            let tick = std::time::Instant::now();
            println!("{} {}", now.as_secs(), tick.elapsed().as_secs());
        }
        "power" => {
            let log = open("log/a").unwrap();
            log.write_all_at(&[b'b'; 2_000], 100).unwrap();
            log.sync_data().unwrap();
            File::open(data.join("log")).unwrap().sync_all().unwrap();
            log.write_all_at(&[b'c'; 2_000], 50).unwrap();
            log.set_len(1_000).unwrap();
            log.write_all_at(b"end", 5_000).unwrap();
            open("log/made").unwrap().write_all(b"made").unwrap();
            std::fs::rename(data.join("log/made"), data.join("log/old")).unwrap();
            std::fs::remove_file(data.join("removed")).unwrap();
            File::open(&data).unwrap().sync_all().unwrap();
            std::fs::remove_file(data.join("kept")).unwrap();
        }
        "files" => {
            let log = open("log/a").unwrap();
            log.sync_all().unwrap();
            File::open(data.join("log")).unwrap().sync_all().unwrap();
            log.write_all_at(b"synced", 0).unwrap();
            let none = rustix::process::Rlimit {
                current: Some(3),
                maximum: Some(3),
            };
            rustix::process::setrlimit(rustix::process::Resource::Nofile, none).unwrap();
            log.sync_all().unwrap();
        }
        other => panic!("{other}"),
    }
}

struct Place {
    directory: tempfile::TempDir,
    control: Control,
}

impl Place {
    fn new() -> Place {
        let directory = tempfile::tempdir().unwrap();
        let library = Library::find(directory.path()).unwrap();
        let data = directory.path().join("n1");
        std::fs::create_dir_all(data.join("log")).unwrap();
        let control = Control::new(&library, &data, true).unwrap();
        Place { directory, control }
    }

    fn run(&self, part: &str) -> Output {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "shim::tests::child", "--nocapture"]);
        command.env(CHILD, part).envs(self.control.environment());
        command.output().unwrap()
    }

    fn said(&self, part: &str) -> String {
        let output = self.run(part);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("n1")
    }

    fn content(&self) -> String {
        std::fs::read_to_string(self.data().join("log/a")).unwrap()
    }
}

#[test]
fn calls_fail_as_often_as_asked_where_asked() {
    let place = Place::new();
    place
        .control
        .fail(&[Calls::Sync], EIO, 1, "/hard/")
        .unwrap();
    assert!(place.said("sync").contains("Ok(())\nOk(())"));
    place.control.fail(&[Calls::Sync], EIO, 1, "/log/").unwrap();
    assert!(place.said("sync").contains("Err(Some(5))\nOk(())"));
    assert_eq!(place.control.counts().unwrap().syncs, 1);
    assert_eq!(place.control.last(), "/log/a");

    let calls = [Calls::Write, Calls::Name];
    place.control.fail(&calls, EROFS, u64::MAX, "").unwrap();
    let said = place.said("read-only");
    assert!(said.contains("Err(Some(30)) Err(Some(30))"), "{said}");
    assert_eq!(place.control.counts().unwrap().names, 2);
    assert!(place.directory.path().join("n1.elsewhere").exists());
    place.control.disarm().unwrap();
    assert!(place.said("sync").contains("Ok(())\nOk(())"));
}

#[test]
fn a_process_ends_at_the_call_that_was_asked_for() {
    for (moment, content) in [
        (Moment::Before, "00001111"),
        (Moment::Half, "0000111122"),
        (Moment::After, "000011112222"),
    ] {
        let place = Place::new();
        place
            .control
            .kill_at(Calls::Write, 3, moment, "log/")
            .unwrap();
        assert!(!place.run("write").status.success());
        assert_eq!(place.content(), content);
        assert_eq!(place.control.counts().unwrap().kills, 1);
    }
}

#[test]
fn the_time_of_day_is_moved_and_nothing_else() {
    let place = Place::new();
    place.control.move_clock(-86_400, 1.0).unwrap();
    let said = place.said("clock");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let line = said.lines().find_map(|line| line.strip_suffix(" 0"));
    let shown: u64 = line.unwrap().parse().unwrap();
    let moved = now.as_secs() - shown;
    assert!((86_400 - 60..=86_400 + 60).contains(&moved), "{said}");
    assert!(place.control.counts().unwrap().clocks > 0);
}

#[test]
fn a_power_cut_takes_what_was_not_synced() {
    let mut all_taken = false;
    for seed in 0..20 {
        let place = Place::new();
        let data = place.data();
        for name in ["removed", "kept", "log/old"] {
            std::fs::write(data.join(name), name).unwrap();
        }
        place.said("power");
        let undo = place.control.undo().unwrap().to_owned();
        let mut random = StdRng::seed_from_u64(seed);
        let lost = place.control.cut_power(&mut random).unwrap();
        // Synced, both of them.
        assert!(!data.join("removed").exists());
        let content = place.content();
        // What was written last may have overwritten what was synced, in whole blocks.
        assert!(content.len() == 2_100 || lost.writes < 4);
        assert!(data.join("kept").exists() || lost.names < 3);
        if lost
            == (Lost {
                writes: 4,
                names: 3,
            })
        {
            all_taken = true;
            let old = std::fs::read_to_string(data.join("log/old")).unwrap();
            assert_eq!(old, "log/old");
            assert!(content[2_048..].bytes().all(|byte| byte == b'b'));
        }
        assert_eq!(std::fs::read_dir(&undo).unwrap().count(), 0);
        // Nothing is left to take.
        let again = place.control.cut_power(&mut random).unwrap();
        assert_eq!(again, Lost::default());
        assert_eq!(place.content(), content);
    }
    assert!(all_taken);
}

#[test]
fn nothing_is_taken_where_something_could_not_be_kept() {
    for seed in 0..6 {
        let place = Place::new();
        place.said("files");
        let mut random = StdRng::seed_from_u64(seed);
        let lost = place.control.cut_power(&mut random).unwrap();
        assert_eq!(lost, Lost::default());
        assert_eq!(place.content(), "synced");
    }
}
