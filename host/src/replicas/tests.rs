//! A world of some replicas, one API server and what may go wrong between them; and the wording of identities.

mod world;

use super::*;

#[test]
fn an_identity_is_a_part_of_an_objects_name_and_never_the_same() {
    for (host, expected) in [
        ("evertoken-7d9f-x2x4z", "evertoken-7d9f-x2x4z-00ff"),
        ("Laptop.local", "laptop-local-00ff"),
        ("-", "replica-00ff"),
        ("", "replica-00ff"),
        ("ß_1_", "1-00ff"),
    ] {
        assert_eq!(Identity::with(host, &[0, 255]).to_string(), expected);
    }
    let long = Identity::with(&"a".repeat(300), &[0]);
    assert_eq!(long.to_string().len(), HOST_NAME_MAX + 3);
    assert_ne!(Identity::new("a").unwrap(), Identity::new("a").unwrap());
}
