//! The client for tests of applications.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use pennon_client::testing::TestClient;
use pennon_client::{Client, Freshness, Reason, Source, StalePolicy, Subject};
use serde_json::json;

/// As an application would have it: it knows nothing of tests.
struct Shop {
    flags: Client,
}

impl Shop {
    fn price(&self, user: &Subject) -> i64 {
        let discount = self.flags.integer("discount", user, 0);
        100 - discount
    }
}

#[test]
fn every_type_and_subject_gets_what_was_set() {
    let flags = TestClient::new()
        .set("on", true)
        .set("color", "blue")
        .set("discount", 7)
        .set("ratio", 0.25)
        .set("limits", json!({"rows": [1, 2]}))
        .set_for("anna", "discount", 20)
        .set_for("ben", "discount", 30)
        .set_for("anna", "only-anna", true);
    let shop = Shop {
        flags: flags.client(),
    };
    let subjects = ["anna", "ben", "carl"].map(Subject::new);
    assert_eq!(
        subjects.each_ref().map(|user| shop.price(user)),
        [80, 70, 93]
    );
    let [anna, _, carl] = &subjects;
    assert!(flags.is_enabled("on", carl));
    assert_eq!(flags.string("color", carl, ""), "blue");
    assert_eq!(flags.number("ratio", carl, 0.0), 0.25);
    assert_eq!(flags.json("limits", carl, json!(null))["rows"][1], 2);
    let only = |user| flags.bool("only-anna", user, true);
    assert!(only(anna) && !only(carl));
    assert_eq!(flags.integer("color", carl, 5), 5, "of another type");
    assert_eq!(
        flags.evaluate("nobody", anna).reason().as_str(),
        "FLAG_NOT_FOUND"
    );
}

#[tokio::test]
async fn it_is_the_real_client() {
    let flags = TestClient::with_policy(StalePolicy::ReturnDefault).set("on", true);
    let user = Subject::new("u");
    let (page, mut changes) = (flags.pin(), flags.changes());
    let before = flags.version().unwrap();
    flags.set("on", false).set("other", 1);
    assert!(page.is_enabled("on", &user) && !flags.is_enabled("on", &user));
    let change = changes.next().await.unwrap();
    assert!(change.affects("on") && change.affects("other"));
    let now = flags.wait_for(before, Duration::ZERO).await.unwrap();
    assert!(now > before);
    assert!(flags.evaluate("on", &user).config_version() > before);
    flags.fresh(Duration::ZERO).await.unwrap();
    let status = flags.status();
    assert!(status.is_fresh() && status.source == Some(Source::Code));

    flags.set_stale(true);
    let evaluation = flags.evaluate("other", &user);
    assert_eq!(
        (evaluation.freshness(), evaluation.reason()),
        (Freshness::Stale, Reason::Stale)
    );
    assert_eq!(flags.integer("other", &user, 9), 9);
    assert!(!flags.status().is_fresh());
    flags.set_stale(false).remove("on");
    assert_eq!(flags.integer("other", &user, 9), 1);
    assert!(flags.bool("on", &user, true), "gone");
}

#[test]
fn what_no_flag_can_be_is_refused_with_its_name() {
    let refusal = |set: fn(&TestClient)| {
        let flags = TestClient::new();
        let flags = std::panic::AssertUnwindSafe(&flags);
        let refused = std::panic::catch_unwind(|| set(&flags)).unwrap_err();
        *refused.downcast::<String>().unwrap()
    };
    let text = refusal(|flags| drop(flags.set("two words", true)));
    assert!(text.contains("\"two words\" is no key"), "{text}");
    let text = refusal(|flags| drop(flags.set("list", json!([1]))));
    assert!(text.contains("list: no flag has the value"), "{text}");
    let text = refusal(|flags| drop(flags.set("x", 1).set_for("u", "x", "text")));
    assert!(text.contains("/variants/value-0"), "{text}");
}
