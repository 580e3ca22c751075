//! The example does what it says.

#[allow(dead_code, unreachable_pub)]
#[path = "../../../examples/hello.rs"]
mod hello;

use super::model::run;
use crate::fake::Fake;

#[test]
fn the_example_reads_what_it_wrote() {
    run(async {
        let fake = Fake::new(60);
        let client = fake.client().await;
        for _ in 0..2 {
            assert_eq!(hello::hello(&client, b"/hello.txt").await.expect("done")[..], *b"hello, world");
        }
        client.close().await.expect("closed");
        fake.check();
    });
}
