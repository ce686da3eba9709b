//! Proofs: who gets which credentials, when, and who never does.

use std::{fs, path::PathBuf};

use bytes::Bytes;
use shoal_content::{Digest, Reference};
use shoal_upstream::{
    Config, Credential, Error, Upstream,
    fake::{Demand, Does, Fake, Fault, On},
};

fn bearer(user: Option<(&str, &str)>) -> Demand {
    Demand::Bearer { user: user.map(|(user, password)| (user.into(), password.into())), realm: None }
}

async fn registry(demand: Demand) -> (Fake, Digest) {
    let fake = Fake::start().await;
    let digest = fake.put_image("lib/app", "v1", &[Bytes::from_static(b"layer")]);
    fake.demand(demand);
    (fake, digest)
}

fn docker_config(fake: &Fake, entry: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    fs::write(&path, format!(r#"{{"auths":{{"{}":{entry}}}}}"#, fake.registry())).unwrap();
    (directory, path)
}

fn upstream(fake: &Fake, docker_config: Option<PathBuf>) -> Upstream {
    Upstream::new(&Config { docker_config, ..fake.config() }).unwrap()
}

async fn pull(upstream: &Upstream, fake: &Fake, digest: Digest) -> Result<(), Error> {
    upstream.manifest(&fake.origin("lib/app"), &Reference::Digest(digest)).await.map(drop)
}

#[tokio::test]
async fn an_anonymous_token_is_fetched_once_and_used_again() {
    let (fake, digest) = registry(bearer(None)).await;
    let upstream = upstream(&fake, None);
    for _ in 0..3 {
        pull(&upstream, &fake, digest).await.unwrap();
    }
    assert_eq!(fake.count("/token"), 1);
    // Refused, token, and three answers.
    assert_eq!(fake.requests().len(), 5);
    let token = fake.requests().into_iter().find(|seen| seen.path == "/token").unwrap();
    assert_eq!(token.query.as_deref(), Some("service=fake&scope=repository%3Alib%2Fapp%3Apull"));
    assert_eq!(token.authorization, None);
}

#[tokio::test]
async fn requests_at_once_share_one_token() {
    let (fake, digest) = registry(bearer(None)).await;
    fake.fault(Fault::always(On::Tokens, Does::SlowHeaders(std::time::Duration::from_millis(100))));
    let upstream = upstream(&fake, None);
    let pulls = (0..20).map(|_| pull(&upstream, &fake, digest));
    for result in futures::future::join_all(pulls).await {
        result.unwrap();
    }
    assert_eq!(fake.count("/token"), 1);
}

#[tokio::test]
async fn each_repository_has_a_token_of_its_own_and_the_second_knows_what_is_wanted() {
    let (fake, digest) = registry(bearer(None)).await;
    fake.put_image("other", "v1", &[]);
    let upstream = upstream(&fake, None);
    pull(&upstream, &fake, digest).await.unwrap();
    upstream.manifest(&fake.origin("other"), &"v1".parse().unwrap()).await.unwrap();
    assert_eq!(fake.count("/token"), 2);
    assert_eq!(fake.count("/v2/other/"), 1, "no request was made to be refused");
}

#[tokio::test]
async fn a_token_that_is_refused_is_replaced_once() {
    let (fake, digest) = registry(bearer(None)).await;
    let upstream = upstream(&fake, None);
    pull(&upstream, &fake, digest).await.unwrap();
    fake.revoke_tokens();
    pull(&upstream, &fake, digest).await.unwrap();
    assert_eq!(fake.count("/token"), 2);

    fake.fault(Fault::always(On::Manifests, Does::Status(401)));
    let before = fake.requests().len();
    let error = pull(&upstream, &fake, digest).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    assert!(fake.requests().len() - before <= 3, "it does not go on asking");
}

#[tokio::test]
async fn the_nodes_password_goes_to_the_token_endpoint_and_not_to_the_registry() {
    let (fake, digest) = registry(bearer(Some(("robot", "secret")))).await;
    let (_directory, path) = docker_config(&fake, r#"{"username":"robot","password":"secret"}"#);
    let upstream = upstream(&fake, Some(path));
    pull(&upstream, &fake, digest).await.unwrap();
    for seen in fake.requests() {
        let is_basic = seen.authorization.is_some_and(|authorization| authorization.starts_with("Basic"));
        assert_eq!(is_basic, seen.path == "/token", "{}", seen.path);
    }
}

#[tokio::test]
async fn an_identity_token_is_exchanged_at_the_token_endpoint() {
    let (fake, digest) = registry(bearer(Some(("robot", "refresh")))).await;
    let (_directory, path) = docker_config(&fake, r#"{"identitytoken":"refresh"}"#);
    pull(&upstream(&fake, Some(path)), &fake, digest).await.unwrap();
    let token = fake.requests().into_iter().find(|seen| seen.path == "/token").unwrap();
    assert_eq!((token.method.as_str(), token.query), ("POST", None));
}

#[tokio::test]
async fn basic_is_answered_from_the_docker_config_and_then_at_once() {
    let (fake, digest) = registry(Demand::Basic("robot".into(), "secret".into())).await;
    let (_directory, path) = docker_config(&fake, r#"{"auth":"cm9ib3Q6c2VjcmV0"}"#);
    let upstream = upstream(&fake, Some(path));
    pull(&upstream, &fake, digest).await.unwrap();
    pull(&upstream, &fake, digest).await.unwrap();
    let given: Vec<_> = fake.requests().iter().map(|seen| seen.authorization.is_some()).collect();
    assert_eq!(given, [false, true, true]);
}

#[tokio::test]
async fn without_credentials_the_error_says_where_they_belong() {
    for demand in [Demand::Basic("robot".into(), "secret".into()), bearer(Some(("robot", "secret")))] {
        let (fake, digest) = registry(demand).await;
        let error = pull(&upstream(&fake, None), &fake, digest).await.unwrap_err();
        assert!(matches!(error, Error::Denied { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("docker_config") || text.contains("without credentials"), "{text}");
        assert!(text.contains("lib/app"), "{text}");
    }
}

#[tokio::test]
async fn wrong_credentials_are_refused_and_not_repeated_in_the_error() {
    for demand in [Demand::Basic("robot".into(), "secret".into()), bearer(Some(("robot", "secret")))] {
        let (fake, digest) = registry(demand).await;
        let (_directory, path) = docker_config(&fake, r#"{"username":"robot","password":"wr0ng"}"#);
        let error = pull(&upstream(&fake, Some(path)), &fake, digest).await.unwrap_err();
        assert!(matches!(error, Error::Denied { .. }), "{error}");
        assert!(!format!("{error} {error:?}").contains("wr0ng"), "{error:?}");
        assert!(fake.requests().len() <= 3);
    }
}

#[tokio::test]
async fn credentials_that_were_replaced_are_read_again_when_the_old_ones_are_refused() {
    let (fake, digest) = registry(Demand::Basic("robot".into(), "old".into())).await;
    let (_directory, path) = docker_config(&fake, r#"{"username":"robot","password":"old"}"#);
    let upstream = upstream(&fake, Some(path.clone()));
    pull(&upstream, &fake, digest).await.unwrap();
    fake.demand(Demand::Basic("robot".into(), "new".into()));
    let config = format!(r#"{{"auths":{{"{}":{{"username":"robot","password":"new"}}}}}}"#, fake.registry());
    fs::write(path, config).unwrap();
    pull(&upstream, &fake, digest).await.unwrap();
}

#[tokio::test]
async fn a_caller_is_judged_by_its_own_credentials_and_gets_nothing_of_the_nodes() {
    for demand in [Demand::Basic("robot".into(), "secret".into()), bearer(Some(("robot", "secret")))] {
        let (fake, digest) = registry(demand).await;
        let (_directory, path) = docker_config(&fake, r#"{"username":"robot","password":"secret"}"#);
        let node = upstream(&fake, Some(path));
        pull(&node, &fake, digest).await.unwrap();
        let denied = |result: Result<(), Error>| matches!(result, Err(Error::Denied { .. }));
        assert!(denied(pull(&node.anonymous(), &fake, digest).await));
        assert!(denied(pull(&node.with_access(Credential::basic("robot", "guess")), &fake, digest).await));
        pull(&node.with_access(Credential::basic("robot", "secret")), &fake, digest).await.unwrap();
        assert!(denied(pull(&node.anonymous(), &fake, digest).await));
    }
}

#[tokio::test]
async fn a_token_endpoint_of_somebody_else_gets_nothing() {
    let thief = Fake::start().await;
    thief.demand(bearer(None));
    let (fake, digest) = registry(Demand::Nothing).await;
    // The same address under another name, and so another host.
    let realm = format!("http://localhost:{}/token", thief.address().port());
    fake.demand(Demand::Bearer { user: None, realm: Some(realm.clone()) });
    let (_directory, path) = docker_config(&fake, r#"{"username":"robot","password":"secret"}"#);
    let error = pull(&upstream(&fake, Some(path)), &fake, digest).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert!(error.to_string().contains("token_hosts"), "{error}");
    assert!(thief.requests().is_empty());

    // Where the operator lists it, it is asked.
    let mut config = fake.config();
    config.registries.get_mut(&fake.registry()).unwrap().token_hosts.push("localhost".into());
    pull(&Upstream::new(&config).unwrap(), &fake, digest).await.unwrap_err();
    assert_eq!(thief.count("/token"), 1);
}

#[tokio::test]
async fn a_token_endpoint_that_fails_for_a_moment_is_asked_again() {
    let (fake, digest) = registry(bearer(None)).await;
    fake.fault(Fault::times(2, On::Tokens, Does::Status(503)));
    pull(&upstream(&fake, None), &fake, digest).await.unwrap();
    assert_eq!(fake.count("/token"), 3);
}

#[tokio::test]
async fn a_body_outlives_the_token_that_it_began_with() {
    use futures::TryStreamExt;
    let (fake, _) = registry(bearer(None)).await;
    let blob = fake.put_blob("lib/app", vec![7; 500_000]);
    let upstream = upstream(&fake, None);
    // Used up by the request that is refused and by the one with a token.
    fake.fault(Fault::times(2, On::Blob(blob), Does::StallAfter(200_000)));
    let stream = upstream.blob(&fake.origin("lib/app"), &blob, 0).await.unwrap();
    fake.revoke_tokens();
    let pieces: Vec<Bytes> = stream.try_collect().await.unwrap();
    assert_eq!(pieces.concat(), vec![7; 500_000]);
    assert_eq!(fake.count("/token"), 2);
}
