//! Probes and metrics over real connections, with a busy or stuck process and with slow clients.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::runner::tests::world::{SECOND, World, job, limits, put};

/// Real sockets in front of a runner with test ports and fixed time.
struct Served {
    address: SocketAddr,
    readiness: Readiness,
    stop: CancellationToken,
    runner: crate::runner::Runner,
}

fn served() -> Served {
    served_with(Readiness::default())
}

fn served_with(readiness: Readiness) -> Served {
    let (runner, handle, metrics) = World::default().runner(&limits(1, 1));
    let probes = Probes::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let (address, stop) = (probes.address(), CancellationToken::new());
    let shown = ProbeState {
        readiness: readiness.clone(),
        metrics,
        runner: Arc::new(OnceLock::from(handle)),
    };
    probes.serve(shown, stop.clone()).unwrap();
    Served {
        address,
        readiness,
        stop,
        runner,
    }
}

async fn request(address: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn livez_says_that_it_lives_and_readyz_where_it_is() {
    let served = served();
    let status = async |head| status(&served, head).await;
    assert_eq!(status("GET /livez").await, "200");
    assert_eq!(status("GET /readyz").await, "503", "starting");
    served.readiness.set(ProcessPhase::Ready);
    assert_eq!(status("GET /readyz").await, "200");
    served.readiness.set(ProcessPhase::Stopping);
    assert_eq!(status("GET /readyz").await, "503", "stopping");
    assert_eq!(status("GET /livez").await, "200", "also while stopping");
    assert_eq!(status("GET /").await, "404");
    assert_eq!(status("POST /readyz").await, "405");
}

async fn status(served: &Served, head: &str) -> String {
    let answer = request(served.address, head).await;
    answer.split(' ').nth(1).unwrap().to_owned()
}

#[test]
fn a_probe_is_answered_while_those_that_run_the_jobs_are_busy() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let served = served();
    let (busy, free) = std::sync::mpsc::channel::<()>();
    let workers = runtime.metrics().num_workers();
    let free = Arc::new(std::sync::Mutex::new(free));
    for _ in 0..workers {
        let free = Arc::clone(&free);
        runtime.spawn(async move { free.lock().unwrap().recv() });
    }
    let other = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let answered = other.block_on(async {
        let answer = status(&served, "GET /livez");
        tokio::time::timeout(20 * SECOND, answer).await
    });
    assert_eq!(answered.as_deref(), Ok("200"));
    drop(busy);
}

#[tokio::test]
async fn livez_says_so_when_those_that_run_the_jobs_do_not_run() {
    let long_ago = Instant::now().checked_sub(2 * STUCK).unwrap();
    let served = served_with(Readiness::since(long_ago));
    assert_eq!(status(&served, "GET /livez").await, "503", "stuck");
    tokio::spawn(served.readiness.clone().beat());
    let answers = async { while status(&served, "GET /livez").await != "200" {} };
    let answered = tokio::time::timeout(20 * SECOND, answers).await;
    assert!(answered.is_ok(), "they run again");
}

#[test]
fn metrics_are_openmetrics_with_a_row_per_job() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let world = World::default();
        let (runner, handle, metrics) = world.runner(&limits(1, 1));
        let probes = Probes::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = probes.address();
        let stop = CancellationToken::new();
        tokio::spawn(runner.run(stop.clone()));
        handle.apply(put(vec![job("a")])).await.unwrap();
        let shown = ProbeState {
            readiness: Readiness::default(),
            metrics,
            runner: Arc::new(OnceLock::from(handle.clone())),
        };
        probes.serve(shown, stop.clone()).unwrap();
        let answer = request(address, "GET /metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0"));
        assert!(
            answer.contains("evertoken_job_ready{name=\"a\",namespace=\"\"} 0.0"),
            "{answer}"
        );
        assert!(answer.ends_with("# EOF\n"));
        stop.cancel();
        while handle.status(Vec::new()).await.is_ok() {
            tokio::time::sleep(SECOND / 100).await;
        }
    });
}

#[tokio::test]
async fn metrics_of_a_runner_that_ended_are_unavailable() {
    let served = served();
    drop(served.runner);
    let answer = request(served.address, "GET /metrics").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    served.stop.cancel();
}

#[tokio::test]
async fn an_address_in_use_is_an_error_that_names_it() {
    let served = served();
    let error = Probes::bind(served.address).unwrap_err();
    let expected = format!("cannot listen on {} (serve.address)", served.address);
    assert_eq!(error.to_string(), expected);
}

/// The behaviours of slow clients, each with many times more connections than places.
#[tokio::test]
async fn slow_clients_keep_nobody_out() {
    let long_head = [
        b"GET /livez HTTP/1.1\r\nx: ".to_vec(),
        vec![b'x'; HEAD_BYTES / 2],
    ];
    for (what, said) in [
        ("nothing", Vec::new()),
        ("half a line", b"GET /li".to_vec()),
        (
            "half a head",
            b"GET /livez HTTP/1.1\r\nhost: x\r\n".to_vec(),
        ),
        ("a long head", long_head.concat()),
        (
            "a body that does not come",
            b"POST /livez HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n".to_vec(),
        ),
        (
            // Its runner never answers.
            "a request whose answer it waits for",
            b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
        ),
        (
            "a request and half of the next",
            b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\nGET".to_vec(),
        ),
    ] {
        let served = served();
        let mut slow = Vec::new();
        for n in 0..CONNECTIONS * 3 {
            let mut stream = TcpStream::connect(served.address).await.unwrap();
            stream.write_all(&said).await.unwrap();
            slow.push(stream);
            if n % 16 == 0 {
                let answered = request(served.address, "GET /livez");
                let answered = tokio::time::timeout(5 * SECOND, answered).await;
                assert!(answered.is_ok_and(|answer| answer.contains("ok")), "{what}");
            }
        }
        let answer = request(served.address, "GET /livez").await;
        assert!(answer.contains("ok"), "{what}: {answer}");
        served.stop.cancel();
    }
}

#[tokio::test]
async fn whoever_says_nothing_is_disconnected() {
    let served = served();
    let mut silent = TcpStream::connect(served.address).await.unwrap();
    silent.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
    let mut rest = Vec::new();
    let end = silent.read_to_end(&mut rest);
    let ended = tokio::time::timeout(HEAD_TIMEOUT + 5 * SECOND, end).await;
    assert!(ended.is_ok(), "still connected");
    assert!(!String::from_utf8_lossy(&rest).contains("200 OK"));
}
