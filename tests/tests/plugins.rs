//! Makes `cargo test --workspace` mean all of it: the plugins are a workspace of their own.

#[test]
fn the_plugins_pass_their_own_tests() {
    evertoken_tests::plugins::test().unwrap();
}
