//! Failing registries: what is tried again, for how long, and how fast the next request hears of it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use shoal_content::Reference;
use shoal_upstream::{
    Config, Error, Upstream,
    fake::{Does, Fake, Fault, On},
};

async fn registry() -> (Fake, Upstream) {
    let fake = Fake::start().await;
    fake.put_image("a", "v1", &[Bytes::from_static(b"layer")]);
    let upstream = Upstream::new(&fake.config()).unwrap();
    (fake, upstream)
}

async fn pull(upstream: &Upstream, fake: &Fake) -> Result<(), Error> {
    let reference: Reference = "v1".parse().unwrap();
    upstream.manifest(&fake.origin("a"), &reference).await.map(drop)
}

#[tokio::test]
async fn server_errors_are_tried_again_a_bounded_number_of_times() {
    for status in [500, 502, 503, 504, 408] {
        let (fake, upstream) = registry().await;
        fake.fault(Fault::times(3, On::Manifests, Does::Status(status)));
        pull(&upstream, &fake).await.unwrap();
        assert_eq!(fake.requests().len(), 4, "{status}");

        fake.fault(Fault::always(On::Manifests, Does::Status(status)));
        let error = pull(&upstream, &fake).await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{status}: {error}");
        assert!(error.to_string().contains(&status.to_string()), "{error}");
        assert_eq!(fake.requests().len(), 8, "{status}");
    }
}

#[tokio::test]
async fn a_verdict_is_not_asked_for_twice() {
    for status in [400, 403, 404, 410, 451] {
        let (fake, upstream) = registry().await;
        fake.fault(Fault::always(On::Manifests, Does::Status(status)));
        pull(&upstream, &fake).await.unwrap_err();
        assert_eq!(fake.requests().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn retry_after_is_waited_for_up_to_a_limit() {
    let (fake, upstream) = registry().await;
    fake.fault(Fault::times(1, On::Manifests, Does::RetryAfter(429, 1)));
    let start = Instant::now();
    pull(&upstream, &fake).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));

    fake.fault(Fault::always(On::Manifests, Does::RetryAfter(429, 3600)));
    let before = fake.requests().len();
    let error = pull(&upstream, &fake).await.unwrap_err();
    let hour = Some(Duration::from_secs(3600));
    assert!(matches!(error, Error::RateLimited { retry_after, .. } if retry_after == hour), "{error}");
    assert_eq!(fake.requests().len(), before + 1);
}

#[tokio::test]
async fn a_registry_that_never_answers_is_given_up_in_time() {
    let (fake, _) = registry().await;
    fake.fault(Fault::always(On::Any, Does::SlowHeaders(Duration::from_secs(3600))));
    let mut config = fake.config();
    config.timeouts.headers = Duration::from_millis(100);
    config.retry.budget = Duration::from_millis(250);
    let upstream = Upstream::new(&config).unwrap();
    let start = Instant::now();
    let error = pull(&upstream, &fake).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test]
async fn slow_redirects_do_not_add_up_beyond_the_deadline() {
    let fake = Fake::start().await;
    let digest = fake.put_blob("a", "x");
    fake.fault(Fault::always(On::Any, Does::SlowHeaders(Duration::from_millis(250))));
    fake.fault(Fault::always(On::Any, Does::Redirect(fake.url().to_string())));
    let mut config = fake.config();
    config.timeouts.headers = Duration::from_millis(300);
    config.retry.budget = Duration::from_millis(300);
    let upstream = Upstream::new(&config).unwrap();
    let start = Instant::now();
    let error = upstream.blob(&fake.origin("a"), &digest, 0).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_slow_first_byte_within_the_deadline_is_no_failure() {
    let (fake, upstream) = registry().await;
    fake.fault(Fault::always(On::Any, Does::SlowHeaders(Duration::from_millis(300))));
    pull(&upstream, &fake).await.unwrap();
    assert_eq!(fake.requests().len(), 1);
}

#[tokio::test]
async fn after_a_registry_gave_no_answer_others_hear_so_at_once_and_it_is_found_again() {
    let (fake, _) = registry().await;
    let mut config = fake.config();
    config.pause = (Duration::from_millis(500), Duration::from_secs(1));
    let upstream = Upstream::new(&config).unwrap();
    fake.stop().await;
    let error = pull(&upstream, &fake).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    let sent = upstream.counters().snapshot().sent;

    let start = Instant::now();
    let error = pull(&upstream, &fake).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_millis(50), "{:?}", start.elapsed());
    assert!(error.to_string().contains("asked again in"), "{error}");
    let counts = upstream.counters().snapshot();
    assert_eq!((counts.sent, counts.blocked), (sent, 1));

    fake.restart().await;
    let deadline = Instant::now() + Duration::from_secs(5);
    while pull(&upstream, &fake).await.is_err() {
        assert!(Instant::now() < deadline, "it is not found again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    pull(&upstream, &fake).await.unwrap();
}

#[tokio::test]
async fn one_registry_that_is_down_says_nothing_of_another() {
    let (down, _) = registry().await;
    let (up, _) = registry().await;
    let mut config = down.config();
    config.registries.insert(up.registry(), up.rules());
    let upstream = Upstream::new(&config).unwrap();
    down.stop().await;
    pull(&upstream, &down).await.unwrap_err();
    pull(&upstream, &up).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_costs_no_failure() {
    let (fake, upstream) = registry().await;
    pull(&upstream, &fake).await.unwrap();
    fake.stop().await;
    fake.restart().await;
    pull(&upstream, &fake).await.unwrap();
}

#[tokio::test]
async fn calls_are_counted_by_how_they_ended() {
    let (fake, upstream) = registry().await;
    pull(&upstream, &fake).await.unwrap();
    fake.fault(Fault::times(1, On::Manifests, Does::Status(404)));
    pull(&upstream, &fake).await.unwrap_err();
    fake.fault(Fault::times(1, On::Manifests, Does::Status(403)));
    pull(&upstream, &fake).await.unwrap_err();
    fake.fault(Fault::times(1, On::Manifests, Does::Status(503)));
    pull(&upstream, &fake).await.unwrap();
    let counts = upstream.counters().snapshot();
    assert_eq!((counts.ok, counts.not_found, counts.denied, counts.retries, counts.sent), (2, 1, 1, 1, 5));
}

#[tokio::test]
async fn a_configuration_that_serves_nothing_asks_nobody() {
    let (fake, _) = registry().await;
    let upstream = Upstream::new(&Config::default()).unwrap();
    assert!(matches!(pull(&upstream, &fake).await, Err(Error::NotServed(_))));
    assert!(fake.requests().is_empty());
}
