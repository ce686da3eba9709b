//! Precedence, refusals, and that what is shown can be read back.

use super::*;

const PATH: &str = "/etc/shoal/shoal.toml";

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn parse_all(file: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Effective, ConfigError> {
    parse(Some(FileText { path: PATH, text: file }), &pairs(env), &pairs(flags))
}

fn refusal(file: &str) -> String {
    parse_all(file, &[], &[]).unwrap_err().to_string()
}

fn source(effective: &Effective, key: &str) -> String {
    let entry = effective.entries.iter().find(|entry| entry.key == key);
    entry.unwrap_or_else(|| panic!("no entry for {key}")).source.to_string()
}

#[test]
fn every_key_is_taken_and_has_a_default_that_is_valid() {
    let effective = parse(None, &[], &[]).unwrap();
    let keys: Vec<_> = effective.entries.iter().map(|entry| entry.key.as_str()).collect();
    let all: Vec<_> = KEYS.iter().map(|key| key.name).collect();
    assert_eq!(keys, all);
    assert!(effective.entries.iter().all(|entry| entry.source == Source::Default));
    assert_eq!(effective.config.quota, Quota::Bytes(20 << 30));
    assert!(effective.config.gateway.listen.ip().is_loopback());
    assert_eq!(effective.config.swarm.key_file, None);
}

#[test]
fn flags_win_over_the_environment_over_the_file_over_the_default() {
    let file = "data_dir = \"/file\"\nquota = \"1GiB\"\n\n[gateway]\nlisten = \"127.0.0.1:1\"\n";
    let env = [("SHOAL_QUOTA", "2GiB"), ("SHOAL_GATEWAY_LISTEN", "127.0.0.1:2"), ("HOME", "/root")];
    let effective = parse_all(file, &env, &[("gateway-listen", "127.0.0.1:3")]).unwrap();
    assert_eq!(effective.config.data_dir, PathBuf::from("/file"));
    assert_eq!(effective.config.quota, Quota::Bytes(2 << 30));
    assert_eq!(effective.config.gateway.listen.port(), 3);
    assert_eq!(source(&effective, "data_dir"), "file /etc/shoal/shoal.toml:1");
    assert_eq!(source(&effective, "quota"), "env SHOAL_QUOTA");
    assert_eq!(source(&effective, "gateway.listen"), "flag --gateway-listen");
    assert_eq!(source(&effective, "log.level"), "default");
}

#[test]
fn lists_are_arrays_in_the_file_and_joined_by_commas_or_repeated_elsewhere() {
    let peers = |effective: Effective| effective.config.swarm.peers;
    let two = vec![
        PeerAddress::HostPort("shoal.kube-system".into(), 5051),
        PeerAddress::Multiaddr("/ip4/10.0.0.1/tcp/5051".into()),
    ];
    let file = "[swarm]\npeers = [\"shoal.kube-system:5051\", \"/ip4/10.0.0.1/tcp/5051\"]\n";
    assert_eq!(peers(parse_all(file, &[], &[]).unwrap()), two);
    let env = [("SHOAL_SWARM_PEERS", "shoal.kube-system:5051, /ip4/10.0.0.1/tcp/5051")];
    assert_eq!(peers(parse_all("", &env, &[]).unwrap()), two);
    let flags = [("swarm-peers", "shoal.kube-system:5051"), ("swarm-peers", "/ip4/10.0.0.1/tcp/5051")];
    assert_eq!(peers(parse_all(file, &env, &flags).unwrap()), two);
    assert_eq!(peers(parse_all(file, &[("SHOAL_SWARM_PEERS", "")], &[]).unwrap()), vec![]);
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_what_may_have_been_meant() {
    assert_eq!(refusal("\nqouta = \"1GiB\"\n"), "/etc/shoal/shoal.toml:2: unknown key qouta, did you mean quota?");
    let unknown = refusal("quota = \"1GiB\"\n[gateway]\nport = 5\n");
    assert!(unknown.starts_with("/etc/shoal/shoal.toml:3: unknown key gateway.port"), "{unknown}");
    let unknown = refusal("[registries.\"docker.io\"]\nendpont = \"https://a.example\"\n");
    assert_eq!(unknown, "/etc/shoal/shoal.toml:2: unknown key endpont, did you mean endpoint?");
    let unknown = refusal("[swram]\nmdns = true\n");
    assert!(unknown.starts_with("/etc/shoal/shoal.toml:1: unknown key swram"), "{unknown}");
    let unknown = parse_all("", &[], &[("qouta", "1")]).unwrap_err().to_string();
    assert_eq!(unknown, "flag --qouta: unknown key qouta, did you mean quota?");
}

#[test]
fn of_several_mistakes_the_first_in_the_file_is_told() {
    assert!(refusal("z = 1\na = 1\n").contains(":1: unknown key z"));
}

#[test]
fn a_bad_value_is_refused_with_key_value_line_and_what_it_must_be() {
    for (file, message) in [
        ("quota = \"20GX\"", ":1: quota = \"20GX\": has an unknown unit"),
        ("\n\nquota = 20", ":3: quota = (integer): must be a string, such as \"20GiB\""),
        ("quota = \"0\"", "must be more than nothing"),
        ("quota = \"0%\"", "must be 1% to 100%"),
        ("quota = \"99999999999999999999\"", "must be a number with a unit"),
        ("quota = \"18446744073709551615KiB\"", "is more bytes than there can be"),
        ("[gateway]\nlisten = \"5050\"", ":2: gateway.listen = \"5050\": must be IP:PORT"),
        ("[swarm]\nmdns = \"yes\"", ":2: swarm.mdns = \"yes\": must be true or false"),
        ("[swarm]\nadmission = \"tls\"", "must be noise or pnet"),
        ("[swarm]\nlisten = [\"0.0.0.0:1\"]", "must be a multiaddress"),
        ("[swarm]\nlisten = [1]", "must be an array of strings"),
        ("[swarm]\npeers = [\"host\"]", "must be HOST:PORT or a multiaddress"),
        ("[fetch]\nstall = \"1000\"", "must have a unit"),
        ("[fetch]\nstall = \"0s\"", "must be more than nothing"),
        ("[fetch]\nstall = \"99999999d\"", "must be at most 365d"),
        ("[log]\nlevel = \"[\"", "is no log filter"),
        ("data_dir = \"\"", "is empty"),
        ("direct_writes = \"always\"", "must be auto or never"),
        ("gateway = 3", ":1: gateway = (integer): must be a table: [gateway]"),
        ("[quota]\nx = 1", ":1: quota = (table): must be a string"),
        ("[registries.\"a/b\"]\n", "is not host[:port]"),
        ("[registries.\"a\"]\nendpoint = \"ftp://a\"", ":2: registries.\"a\".endpoint = \"ftp://a\": must be http://"),
        ("[registries.\"a\"]\nendpoint = \"https://u:p@a\"", "must be http://HOST[:PORT][/PATH]"),
        ("[registries.\"a\"]\nallow_private = 1", "must be true or false"),
        ("low_watermark = \"95%\"", ":1: low_watermark = \"95%\": must be below high_watermark, which is 95%"),
    ] {
        let refusal = refusal(file);
        assert!(refusal.contains(message), "{file:?} gave {refusal:?}");
    }
    let error = parse_all("", &[("SHOAL_QUOTA", "much")], &[]).unwrap_err().to_string();
    assert!(error.starts_with("environment variable SHOAL_QUOTA: quota = \"much\": must be a number"), "{error}");
    let error = parse_all("", &[], &[("swarm-mdns", "yes")]).unwrap_err().to_string();
    assert_eq!(error, "flag --swarm-mdns: swarm.mdns = \"yes\": must be true or false");
}

#[test]
fn a_file_that_is_not_toml_is_refused_with_line_and_column() {
    let error = refusal("quota = \"1GiB\"\n[gateway\n");
    assert!(error.starts_with("/etc/shoal/shoal.toml:2:"), "{error}");
    let error = refusal("quota = \"1GiB\"\nquota = \"1GiB\"\n");
    assert!(error.starts_with("/etc/shoal/shoal.toml:2:"), "{error}");
}

#[test]
fn registries_of_a_later_source_replace_those_of_the_same_name() {
    let file = "[registries.\"docker.io\"]\n[registries.\"a.example:5000\"]\nendpoint = \"http://a.example:5000/\"\nallow_private = true\nca = \"/ca.pem\"\n";
    let flags = [("registry", "docker.io=https://mirror.example")];
    let effective = parse_all(file, &[("SHOAL_REGISTRIES", "docker.io,quay.io")], &flags).unwrap();
    let registries = &effective.config.upstream.registries;
    let names: Vec<_> = registries.keys().map(Registry::as_str).collect();
    assert_eq!(names, ["a.example:5000", "docker.io", "quay.io"]);
    let of = |name: &str| &registries[&name.parse::<Registry>().unwrap()];
    assert_eq!(of("docker.io").endpoint.as_deref(), Some("https://mirror.example"));
    let private = RegistryAccess {
        endpoint: Some("http://a.example:5000".into()),
        allow_private: true,
        ca: Some("/ca.pem".into()),
        ..RegistryAccess::default()
    };
    assert_eq!(*of("a.example:5000"), private);
    assert_eq!(source(&effective, "registries.\"docker.io\""), "flag --registry");
    assert_eq!(source(&effective, "registries.\"a.example:5000\""), "file /etc/shoal/shoal.toml:2");
    let text = "r.example:5000=http://127.0.0.1:5000;allow_private;ca=/x";
    let effective = parse_all("", &[], &[("registry", text)]).unwrap();
    assert!(effective.config.upstream.registries.values().all(|access| access.allow_private && access.ca.is_some()));
    assert!(parse_all("", &[], &[("registry", "a;b")]).is_err());
}

#[test]
fn variables_of_other_people_are_passed_over_and_likely_slips_are_warned_of() {
    let env = [
        ("SHOAL_SERVICE_HOST", "10.0.0.1"),
        ("SHOAL_METRICS_PORT", "tcp://10.0.0.1:80"),
        ("SHOAL_CONFIG", "/x"),
        ("SHOAL_QOUTA", "1"),
        ("QUOTA", "x"),
    ];
    let effective = parse_all("", &env, &[]).unwrap();
    assert_eq!(effective.warnings, ["environment variable SHOAL_QOUTA names no key of the configuration"]);
}

#[test]
fn an_optional_key_is_unset_by_the_empty_text() {
    let effective = parse_all("docker_config = \"/d\"\n", &[("SHOAL_DOCKER_CONFIG", "")], &[]).unwrap();
    assert_eq!(effective.config.upstream.docker_config, None);
    assert_eq!(source(&effective, "docker_config"), "env SHOAL_DOCKER_CONFIG");
}

#[test]
fn what_config_prints_is_a_file_that_gives_the_same_configuration() {
    let file = "data_dir = \"/a \\\"b\\\"\\\\c\\n\"\nquota = \"10%\"\n[swarm]\npeers = [\"a:1\", \"/ip4/1.2.3.4/tcp/1\"]\n[registries.\"a:1\"]\nendpoint = \"http://a:1\"\n[registries.\"b\"]\nca = \"/c\"\nendpoint = \"https://b/x/y\"\ntoken_hosts = [\"t.example\"]\nallow_downgrade = true\n";
    let effective = parse_all(file, &[("SHOAL_NOTHING", "")], &[("swarm-mdns", "true")]).unwrap();
    let shown = show::toml(&effective);
    let again = parse_all(&shown, &[], &[]).unwrap();
    assert_eq!(again.config, effective.config, "{shown}");
    assert!(shown.contains("quota = \"10%\"  # file /etc/shoal/shoal.toml:2\n"), "{shown}");
    assert!(shown.contains("mdns = true  # flag --swarm-mdns\n"), "{shown}");
    let json = show::json(&effective);
    assert_eq!(json["values"]["quota"]["value"], "10%");
    assert_eq!(json["values"]["quota"]["source"], "file /etc/shoal/shoal.toml:2");
    assert_eq!(json["values"]["docker_config"]["value"], serde_json::Value::Null);
}

#[test]
fn the_command_line_has_a_flag_for_every_key() {
    use clap::{Args as _, FromArgMatches as _};
    let command = || Flags::augment_args(clap::Command::new("test"));
    command().debug_assert();
    let given =
        ["test", "--quota", "1GiB", "--swarm-mdns", "--swarm-peers=a:1", "--swarm-peers", "b:1", "--registry", "c"];
    let flags = Flags::from_arg_matches(&command().get_matches_from(given)).unwrap();
    let config = parse(None, &[], &flags.values).unwrap().config;
    assert_eq!(config.quota, Quota::Bytes(1 << 30));
    assert!(config.swarm.mdns);
    assert_eq!(config.swarm.peers.len(), 2);
    assert_eq!(config.upstream.registries.len(), 1);
    for key in KEYS {
        assert!(command().get_arguments().any(|argument| argument.get_long() == Some(&key.flag())), "{}", key.name);
    }
}

/// Pieces of configuration files, right and wrong, that chance alone would hardly write.
const PIECES: &str = "(quota|data_dir|any_registry|docker_config) = (\"[ -~]{0,9}\"|\"[0-9]{1,3}(%|GiB|MB)?\"|true|7)\n\
    |\\[(gateway|swarm|fetch|log|registries|registries\\.\"[a-z.:0-9]{1,9}\")\\]\n\
    |(listen|peers|advertise|token_hosts) = \\[(\"[a-z0-9./:-]{0,12}\")?\\]\n\
    |(endpoint|ca|level|key_file) = \"(https?://)?[a-z0-9./:=,-]{0,12}\"\n\
    |[a-z_.\\[\\]\"={}\n 0-9#'é-]{0,20}";

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_text_makes_the_parser_panic_and_what_is_shown_reads_back(
        file in proptest::collection::vec(PIECES, 0..4),
        env in "\\PC{0,20}",
        flag in "\\PC{0,20}",
        with_flags in proptest::bool::weighted(0.2),
    ) {
        let file = file.concat();
        let env = [("SHOAL_DOCKER_CONFIG", env.as_str()), ("SHOAL_REGISTRIES", env.as_str())];
        let flags = [("swarm-peers", flag.as_str()), ("registry", flag.as_str())];
        let given = if with_flags { parse_all(&file, &env, &flags) } else { parse_all(&file, &[], &[]) };
        if let Ok(effective) = given {
            let shown = show::toml(&effective);
            let again = parse_all(&shown, &[], &[]);
            proptest::prop_assert_eq!(again.map(|again| again.config), Ok(effective.config), "{}", shown);
        }
    }
}
