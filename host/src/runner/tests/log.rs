//! What people read: one line per refresh, one per failure, and never a token.

use std::io;
use std::sync::{Arc, Mutex};

use tracing_subscriber::fmt::MakeWriter;

use super::world::{Plan, SECOND, World, failure, job};
use crate::failure::FailureKind;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[test]
fn a_refresh_is_one_line_a_failure_another_and_no_line_holds_a_token() {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(lines.clone())
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .without_time()
        .finish();
    let world = World::default();
    let fails = |nth| (nth == 0).then(|| failure(FailureKind::Denied));
    world.plan(
        "warehouse",
        Plan {
            fails: Arc::new(fails),
            ..Plan::default()
        },
    );
    tracing::subscriber::with_default(subscriber, || {
        world.time.run(async {
            let started = world.start(vec![job("warehouse")]).await;
            world.time.wait(20 * SECOND).await;
            started.stop().await;
        });
    });
    assert_eq!(world.written("warehouse"), ["warehouse.1"]);
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let told: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with(" INFO") || line.starts_with(" WARN"))
        .map(|line| line.split_once("scheduler: ").unwrap().1)
        .collect();
    assert_eq!(
        told,
        [
            "refresh failed job=warehouse kind=denied code=\"model\" \
             error=\"the model fails\" next=2023-11-14T22:13:30Z",
            "refreshed token job=warehouse expires_at=2023-11-14T22:18:30Z next=2023-11-14T22:16:55Z",
        ]
    );
    assert!(!text.contains("warehouse.1"), "{text}");
}
