//! What it costs to keep a token and to replace a file, fsync included.
#![allow(
    clippy::expect_used,
    missing_docs,
    reason = "a benchmark stops at the first error, and criterion's macros document nothing"
)]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use evertoken::capability::keep::Keeper;
use evertoken::kubernetes::Kubernetes;
use evertoken::model::time::Timestamp;
use evertoken::model::token::{Artifact, Expiry, KeptToken, Token};
use evertoken::model::{Destination, FileDestination, JobId};
use evertoken::output::{Outputs, Publication};
use evertoken::state::{StateKey, Store};

/// A JWT with a few claims.
const TOKEN_BYTES: usize = 2048;
/// Jobs that become due at the same moment.
const TOGETHER: u64 = 512;

fn kept(n: u64) -> KeptToken {
    KeptToken {
        token: Token {
            value: format!("{n:0TOKEN_BYTES$}").into(),
            token_type: "Bearer".to_owned(),
            expiry: Expiry::At(Timestamp(n)),
            fields: Vec::new(),
        },
        obtained_at: Timestamp(n),
        expires_at: Some(Timestamp(n)),
        rotating_expires_at: None,
        source_hash: [0; 32],
    }
}

fn store_of_a_token(c: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let key = StateKey::parse(&[0xa5; 32]).expect("a key");
    let store = Arc::new(Store::open(folder.path(), vec![key]).expect("a store"));
    let mut group = c.benchmark_group("keep a token of 2 KiB, encrypted, durable");
    let mut n = 0;
    group.bench_function("one at a time", |b| {
        b.to_async(&runtime).iter_batched(
            || {
                n += 1;
                kept(n)
            },
            |token| {
                let store = Arc::clone(&store);
                async move {
                    let kept = store.keep_token(&JobId::file("job"), &token).await;
                    kept.expect("a write");
                }
            },
            BatchSize::SmallInput,
        );
    });
    group.throughput(Throughput::Elements(TOGETHER));
    group.bench_function("512 jobs at once", |b| {
        b.to_async(&runtime).iter(|| {
            let store = Arc::clone(&store);
            async move {
                let mut tasks = tokio::task::JoinSet::new();
                for n in 0..TOGETHER {
                    let store = Arc::clone(&store);
                    tasks.spawn(async move {
                        let job = JobId::file(format!("job-{n}"));
                        store.keep_token(&job, &kept(n)).await
                    });
                }
                while let Some(result) = tasks.join_next().await {
                    black_box(result).expect("a task").expect("a write");
                }
            }
        });
    });
    group.finish();
}

fn atomic_file_write(c: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let outputs = Arc::new(Outputs::new(Arc::new(Kubernetes::new()), Arc::default()));
    let destination = Arc::new(Destination::File(FileDestination {
        path: folder.path().join("token"),
        mode: 0o400,
        owner: None,
        group: None,
        replace: Default::default(),
    }));
    let publish = |content: String| {
        let (outputs, destination) = (Arc::clone(&outputs), Arc::clone(&destination));
        async move {
            let artifacts = [Artifact {
                name: String::new(),
                content: content.into_bytes().into(),
            }];
            let publication = Publication {
                job: &JobId::file("job"),
                output_index: 0,
                artifacts: &artifacts,
                expires_at: None,
                next_refresh: None,
            };
            let written = outputs.write(&destination, &publication, false).await;
            black_box(written).expect("a write");
        }
    };
    let mut group = c.benchmark_group("file of 2 KiB");
    let mut n = 0;
    group.bench_function("replaced", |b| {
        b.to_async(&runtime).iter_batched(
            || {
                n += 1;
                format!("{n:0TOKEN_BYTES$}")
            },
            publish,
            BatchSize::SmallInput,
        );
    });
    group.bench_function("unchanged", |b| {
        b.to_async(&runtime).iter_batched(
            || format!("{:0TOKEN_BYTES$}", 0),
            publish,
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, store_of_a_token, atomic_file_write);
criterion_main!(benches);
