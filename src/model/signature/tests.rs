use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::model::fixtures;

/// Unicode, an escaped NUL, a number of thirty digits.
const BODY: &str = concat!(
    r#"{"event_type":"ticket.created","data":{"title":"Drücker 🖨","n":123456789012345678901234567890,"#,
    r#""z":"\u0000"},"company_id":"00000000-0000-0000-0000-000000000007","timestamp":1700000000}"#,
);

/// The expected values come from Python's `hmac`, used as the guide and as Standard Webhooks say.
#[test]
fn signatures_are_those_that_others_compute() {
    let check = |secret: &str, guide: &str, standard: &str| {
        let made = Secret::new(secret);
        assert_eq!(made.guide(1_700_000_001, BODY.as_bytes()), format!("sha256={guide}"), "{secret:?}");
        let signed = made.standard(fixtures::event(), 1_700_000_001, BODY.as_bytes());
        assert_eq!(signed, format!("v1,{standard}"), "{secret:?}");
    };
    check(
        "your_secure_webhook_secret",
        "8c889eb1e3202b6c6656a8417cfc1dbf9f7615ea00e1d1554cc15f2d611113f8",
        "bkinPbsLsWeVsR225MEfjyDoJ4E4slpvGjPEfcMy6iM=",
    );
    check(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "042875f92434cc0f593602aebe755dc5a8ccec52d9227002e2ac983c79ca72bb",
        "V2W+VbXlLo19XwIuBRqRyEbW5R8Y7Tll5Rfrj37Vpv8=",
    );
    // Base64 that somebody has stripped of its padding.
    assert_eq!(
        Secret::new("whsec_c2VjcmV0IQ").standard(fixtures::event(), 1, b"{}"),
        Secret::new("whsec_c2VjcmV0IQ==").standard(fixtures::event(), 1, b"{}"),
    );
    // What is not base64 behind the prefix is a text like any other.
    check(
        "whsec_not base64!",
        "eb57c1afc1915559ddf731f409b165cfe2c2c9190c1b72d78cd4e4fd43376749",
        "ZKmfxR44HSAlYp/971lW0N1zQs6Dk6+SDvxrU+3GEV8=",
    );
    check(
        "whsec_",
        "551b04a874ab422c2d7b06908705d2e2e0a7bda1b5780c003091324bc9c6cc31",
        "02KNj4RLh3ZA0dypLQ1KafHU34aOYwGCIAwx8D4PCJ0=",
    );
    check(
        "Schl\u{fc}ssel",
        "16d211d37c0bfec647928ebd458c6e452f678db55828a00d782121e48c40f6c6",
        "0mCw95FEX0gszKENLuJ8zyE/IpaiYdcpa8BWD3zC6Ho=",
    );
}

proptest! {
    #[test]
    fn standard_signatures_equal_those_of_the_reference_crate(
        key in prop::collection::vec(any::<u8>(), 1..80),
        body in "\\PC{0,200}",
        timestamp in 0_i64..10_000_000_000,
        id in any::<u128>(),
    ) {
        let id = EventId(Uuid::from_u128(id));
        let encoded = format!("whsec_{}", STANDARD.encode(&key));
        let reference = standardwebhooks::Webhook::new(&encoded).unwrap();
        let theirs = reference.sign(&id.to_string(), timestamp, body.as_bytes()).unwrap();
        prop_assert_eq!(Secret::new(encoded).standard(id, timestamp, body.as_bytes()), theirs);
    }

    #[test]
    fn plain_secrets_are_their_own_bytes(secret in "[a-zA-Z0-9_ -]{1,64}", body in "\\PC{0,200}") {
        let reference = standardwebhooks::Webhook::from_bytes(secret.clone().into_bytes()).unwrap();
        let id = fixtures::event();
        let theirs = reference.sign(&id.to_string(), 5, body.as_bytes()).unwrap();
        prop_assert_eq!(Secret::new(secret).standard(id, 5, body.as_bytes()), theirs);
    }

    #[test]
    fn what_is_signed_verifies_and_nothing_else_does(
        secret in "\\PC{1,40}",
        body in prop::collection::vec(any::<u8>(), 1..100),
        timestamp in any::<i64>(),
        flipped in any::<prop::sample::Index>(),
    ) {
        let (secret, other) = (Secret::new(secret.clone()), Secret::new(format!("{secret}x")));
        let (id, time) = (fixtures::event(), timestamp.to_string());
        let (guide, standard) = (secret.guide(timestamp, &body), secret.standard(id, timestamp, &body));
        prop_assert!(verify_guide(&secret, &time, &body, &guide));
        prop_assert!(verify_standard(&secret, &id.to_string(), &time, &body, &standard));
        prop_assert!(!verify_guide(&other, &time, &body, &guide));
        prop_assert!(!verify_standard(&other, &id.to_string(), &time, &body, &standard));
        prop_assert!(!verify_standard(&secret, "another", &time, &body, &standard));
        let mut changed = body.clone();
        changed[flipped.index(body.len())] ^= 1;
        prop_assert!(!verify_guide(&secret, &time, &changed, &guide));
        prop_assert!(!verify_standard(&secret, &id.to_string(), &time, &changed, &standard));
    }
}

#[test]
fn the_guides_header_is_verified_in_one_form_only() {
    let secret = Secret::new("s");
    let good = secret.guide(5, b"{}");
    let check = |header: &str, expected: bool| {
        assert_eq!(verify_guide(&secret, "5", b"{}", header), expected, "{header:?}");
    };
    check(&good, true);
    check(&format!(" {good} "), true);
    check(&good.to_uppercase().replace("SHA256=", "sha256="), true);
    check(&good["sha256=".len()..], false);
    check(&good.replace("sha256=", "sha1="), false);
    check(&good[..good.len() - 2], false);
    check(&good[..good.len() - 1], false);
    check(&format!("{good}0"), false);
    check(&format!("{good}00"), false);
    check(&format!("{}zz", &good[..good.len() - 2]), false);
    check("sha256=", false);
    check("", false);
    assert!(!verify_guide(&secret, "6", b"{}", &good));
}

#[test]
fn one_of_several_standard_signatures_is_enough() {
    let (new, old) = (Secret::new("new"), Secret::new("old"));
    let id = fixtures::event();
    let sign = |secret: &Secret| secret.standard(id, 5, b"{}");
    let check = |header: &str, expected: bool| {
        assert_eq!(verify_standard(&old, &id.to_string(), "5", b"{}", header), expected, "{header:?}");
    };
    check(&sign(&old), true);
    check(&sign(&new), false);
    check(&format!("{} {}", sign(&new), sign(&old)), true);
    check(&format!("v1a,AAAA junk v1, {}", sign(&old)), true);
    check(&format!("{},{}", sign(&new), sign(&old)), false);
    check(&sign(&old).replace("v1,", "v2,"), false);
    check("", false);
}

#[test]
fn a_secret_is_not_printed() {
    let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    assert_eq!(format!("{secret:?}"), "Secret { .. }");
    assert_eq!(secret.expose(), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
}

#[test]
fn generated_secrets_are_standard_and_never_the_same() {
    let (one, other) = (Secret::generate(), Secret::generate());
    assert_ne!(one.expose(), other.expose());
    let key = STANDARD.decode(one.expose().strip_prefix("whsec_").unwrap()).unwrap();
    assert_eq!(key.len(), 32);
    assert_eq!(check_secret(one.expose()), Ok(()));
}

#[test]
fn a_given_secret_must_be_storable() {
    let check = |text: &str, good: bool| assert_eq!(check_secret(text).is_ok(), good, "{text:?}");
    check("fifteen letters", false);
    check("sixteen letters!", true);
    check("Schl\u{fc}ssel mit Leerzeichen", true);
    check(&"a".repeat(255), true);
    check(&"a".repeat(256), false);
    check("", false);
    check("sixteen letters!\0", false);
    check("sixteen letters!\n", false);
}
