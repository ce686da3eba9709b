//! Trees as machines have them, real files, every place to stop.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use proptest::prelude::*;

use super::{ops::apply, *};

const GATEWAY: &str = "http://127.0.0.1:5050";
const CERTS: &str = "etc/containerd/certs.d";
const DROP_IN: &str = "etc/containers/registries.conf.d/50-shoal.conf";

fn place(root: &Path) -> Place {
    Place { root: root.to_owned(), certs_dir: None, dry_run: false, json: false }
}

fn wanted(registries: &[&str]) -> Wanted {
    let config = config::parse(None, &[], &[]).unwrap().config;
    let named: Vec<_> = registries.iter().map(|&name| name.to_owned()).collect();
    Wanted {
        gateway: GATEWAY.to_owned(),
        targets: targets(&named, &config).unwrap(),
        runtimes: vec![Runtime::Containerd, Runtime::Containers],
    }
}

fn install(root: &Path, registries: &[&str]) -> Report {
    let (ops, report) = plan_install(&place(root), &wanted(registries)).unwrap();
    apply(&ops).unwrap();
    report
}

fn uninstall(root: &Path) -> Report {
    let (ops, report) = plan_uninstall(&place(root)).unwrap();
    apply(&ops).unwrap();
    report
}

/// Every path with its kind, mode, inode and content. Files keep their inode, directories need not.
type Tree = BTreeMap<PathBuf, (u32, u64, Vec<u8>)>;

fn tree(root: &Path) -> Tree {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let is_file = metadata.is_file();
            let content = if is_file { fs::read(&path).unwrap() } else { Vec::new() };
            if metadata.is_dir() {
                open.push(path.clone());
            }
            let inode = if is_file { metadata.ino() } else { 0 };
            found.insert(path.strip_prefix(root).unwrap().to_owned(), (metadata.mode(), inode, content));
        }
    }
    found
}

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn read(root: &Path, path: &str) -> String {
    fs::read_to_string(root.join(path)).unwrap()
}

fn action(report: &Report, end: &str) -> Action {
    let step = report.steps.iter().find(|step| step.path.ends_with(end));
    step.unwrap_or_else(|| panic!("no step for {end} in {report:?}")).action
}

#[test]
fn a_fresh_machine_gets_these_files() {
    let root = tempfile::tempdir().unwrap();
    let registries = ["_default", "docker.io", "registry.example.com:5000=http://registry.example.com:5000"];
    let report = install(root.path(), &registries);
    assert_eq!(report.refused(), 0, "{report:?}");
    let head = "# >>> shoal: written by `shoal install`, taken back by `shoal uninstall`\n";
    let host =
        "[host.\"http://127.0.0.1:5050\"]\n  capabilities = [\"pull\", \"resolve\"]\n  dial_timeout = \"200ms\"\n";
    assert_eq!(
        read(root.path(), &format!("{CERTS}/_default/hosts.toml")),
        format!("{head}# directories made: 4\n{host}# <<< shoal\n")
    );
    assert_eq!(
        read(root.path(), &format!("{CERTS}/docker.io/hosts.toml")),
        format!("{head}# directories made: 1\nserver = \"https://registry-1.docker.io\"\n\n{host}# <<< shoal\n")
    );
    assert_eq!(
        read(root.path(), &format!("{CERTS}/registry.example.com_5000_/hosts.toml")),
        format!("{head}# directories made: 1\nserver = \"http://registry.example.com:5000\"\n\n{host}# <<< shoal\n")
    );
    assert_eq!(
        read(root.path(), DROP_IN),
        format!(
            "{head}# directories made: 2\n\n\
             [[registry]]\nprefix = \"docker.io\"\nlocation = \"docker.io\"\n\n\
             [[registry.mirror]]\nlocation = \"127.0.0.1:5050/docker.io\"\ninsecure = true\n\n\
             [[registry]]\nprefix = \"registry.example.com:5000\"\nlocation = \"registry.example.com:5000\"\ninsecure = true\n\n\
             [[registry.mirror]]\nlocation = \"127.0.0.1:5050/registry.example.com:5000\"\ninsecure = true\n\
             # <<< shoal\n"
        )
    );
    uninstall(root.path());
    assert_eq!(tree(root.path()), Tree::new());
}

#[test]
fn a_file_of_somebody_else_is_extended_and_given_back_with_its_owner_mode_and_inode() {
    let root = tempfile::tempdir().unwrap();
    let theirs = "server = \"https://docker.io\"\n\n# ours since 2021\n[host.\"https://mirror.example\"]\n  capabilities = [\"pull\"]";
    let path = format!("{CERTS}/docker.io/hosts.toml");
    write(root.path(), &path, theirs);
    fs::set_permissions(root.path().join(&path), fs::Permissions::from_mode(0o640)).unwrap();
    let before = tree(root.path());

    let report = install(root.path(), &["docker.io"]);
    assert_eq!(action(&report, "hosts.toml"), Action::Merged);
    let merged = read(root.path(), &path);
    let order = [merged.find("127.0.0.1:5050"), merged.find("mirror.example")];
    assert!(order[0] < order[1], "the gateway is asked first:\n{merged}");
    assert_eq!(fs::metadata(root.path().join(&path)).unwrap().mode() & 0o777, 0o640);

    let report = uninstall(root.path());
    assert_eq!(action(&report, "hosts.toml"), Action::Restored);
    assert_eq!(tree(root.path()), before);
}

#[test]
fn a_second_install_changes_nothing_and_another_gateway_changes_only_the_entry() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), &format!("{CERTS}/docker.io/hosts.toml"), "server = \"https://docker.io\"");
    let before = tree(root.path());
    install(root.path(), &["docker.io", "ghcr.io"]);
    let once = tree(root.path());
    let report = install(root.path(), &["docker.io", "ghcr.io"]);
    assert!(report.steps.iter().all(|step| step.action == Action::Unchanged), "{report:?}");
    assert_eq!(tree(root.path()), once);

    let other = Wanted { gateway: "http://127.0.0.1:6060".to_owned(), ..wanted(&["docker.io", "ghcr.io"]) };
    let (ops, report) = plan_install(&place(root.path()), &other).unwrap();
    apply(&ops).unwrap();
    assert!(report.steps.iter().all(|step| step.action == Action::Updated), "{report:?}");
    assert!(read(root.path(), &format!("{CERTS}/ghcr.io/hosts.toml")).contains(":6060"));
    assert!(!read(root.path(), DROP_IN).contains(":5050"));
    uninstall(root.path());
    assert_eq!(tree(root.path()), before);
}

#[test]
fn what_others_changed_in_the_meantime_stays_and_only_the_entry_goes() {
    let root = tempfile::tempdir().unwrap();
    let path = format!("{CERTS}/docker.io/hosts.toml");
    write(root.path(), &path, "server = \"https://a.example\"\n");
    install(root.path(), &["docker.io", "ghcr.io"]);
    let changed = read(root.path(), &path).replace("a.example", "b.example");
    write(root.path(), &path, &changed);
    let ours = format!("{CERTS}/ghcr.io/hosts.toml");
    let extended = format!("{}[host.\"https://c.example\"]\n", read(root.path(), &ours));
    write(root.path(), &ours, &extended);

    let report = uninstall(root.path());
    assert!(report.steps.iter().filter(|step| step.action == Action::TakenOut).count() == 2, "{report:?}");
    assert_eq!(read(root.path(), &path), "server = \"https://b.example\"\n");
    assert_eq!(read(root.path(), &ours), "[host.\"https://c.example\"]\n");
    assert!(!root.path().join(CERTS).join("docker.io/hosts.toml.shoal-orig").exists());
}

#[test]
fn what_cannot_be_extended_safely_is_refused_and_left_alone() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), &format!("{CERTS}/broken.example/hosts.toml"), "server = ");
    write(root.path(), &format!("{CERTS}/inline.example/hosts.toml"), "host = { \"https://b.example\" = {} }\n");
    write(root.path(), &format!("{CERTS}/certs.example/ca.crt"), "PEM");
    write(root.path(), "elsewhere.toml", "");
    fs::create_dir_all(root.path().join(CERTS).join("link.example")).unwrap();
    let link = root.path().join(CERTS).join("link.example/hosts.toml");
    std::os::unix::fs::symlink("../../../../elsewhere.toml", link).unwrap();
    write(root.path(), "etc/containers/registries.conf", "[[registry]]\nlocation = \"certs.example\"\n");
    write(root.path(), DROP_IN, "# somebody's\n");
    let before = tree(root.path());
    let report = install(root.path(), &["broken.example", "inline.example", "certs.example", "link.example"]);
    assert_eq!(report.refused(), 6, "{report:?}");
    assert_eq!(tree(root.path()), before);
    uninstall(root.path());
    assert_eq!(tree(root.path()), before);
}

#[test]
fn a_registry_is_not_taken_out_of_the_reach_of_somebody_elses_default() {
    let root = tempfile::tempdir().unwrap();
    let default = format!("{CERTS}/_default/hosts.toml");
    write(root.path(), &default, "[host.\"https://mirror.example\"]\n");
    let report = install(root.path(), &["ghcr.io"]);
    assert!(report.steps[0].reason.as_ref().is_some_and(|reason| reason.contains("--registry _default")), "{report:?}");
    assert!(!root.path().join(CERTS).join("ghcr.io").exists());
    let report = install(root.path(), &["_default"]);
    assert_eq!(action(&report, "_default/hosts.toml"), Action::Merged);
}

#[test]
fn registries_with_a_file_of_their_own_are_told_when_every_one_is_installed() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), &format!("{CERTS}/ghcr.io/hosts.toml"), "");
    let report = install(root.path(), &["_default"]);
    assert!(report.notes.iter().any(|note| note.contains("ghcr.io/hosts.toml")), "{report:?}");
}

#[test]
fn a_host_with_a_port_uses_the_directory_that_is_already_there() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), &format!("{CERTS}/r.example:5000/hosts.toml"), "server = \"https://r.example:5000\"\n");
    install(root.path(), &["r.example:5000"]);
    assert!(read(root.path(), &format!("{CERTS}/r.example:5000/hosts.toml")).contains(GATEWAY));
    assert!(!root.path().join(CERTS).join("r.example_5000_").exists());
}

#[test]
fn a_link_that_leads_out_of_a_mounted_tree_is_not_followed() {
    let root = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("etc")).unwrap();
    std::os::unix::fs::symlink(outside.path(), root.path().join("etc/containerd")).unwrap();
    let error = plan_install(&place(root.path()), &wanted(&["docker.io"])).unwrap_err();
    assert!(error.to_string().contains("symbolic link"), "{error}");
    assert_eq!(tree(outside.path()), Tree::new());
}

#[test]
fn config_path_of_containerd_decides_the_folder() {
    let root = tempfile::tempdir().unwrap();
    let config = "version = 3\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n";
    write(root.path(), "etc/containerd/config.toml", config);
    let imported = "version = 3\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/srv/certs.d\"\n";
    write(root.path(), "etc/containerd/conf.d/certs.toml", imported);
    let report = install(root.path(), &["docker.io"]);
    assert!(root.path().join("srv/certs.d/docker.io/hosts.toml").exists(), "{report:?}");
    assert!(!report.notes.iter().any(|note| note.contains("config_path")), "{report:?}");
}

/// What may stand in a file of a registry before Shoal comes.
fn hosts_file() -> impl Strategy<Value = Option<String>> {
    prop_oneof![
        Just(None),
        Just(Some(String::new())),
        Just(Some("server = \"https://a.example\"".to_owned())),
        Just(Some("\n# a\n\n".to_owned())),
        Just(Some("server = \"https://a.example\"\r\n[host.\"https://b.example\"]\r\n".to_owned())),
        Just(Some("[host]\n[host.\"https://b.example\".header]\nx = [\"y\"]\n\n\n".to_owned())),
        Just(Some("[host.\"http://127.0.0.1:5050\"]\n".to_owned())),
        Just(Some("# <<< shoal\n".to_owned())),
        Just(Some("server = '''\n[x]\n'''\n".to_owned())),
        "[ -~\n\t\"=\\[\\]]{0,40}".prop_map(Some),
    ]
}

#[derive(Clone, Debug)]
struct Machine {
    hosts: Vec<(&'static str, Option<String>)>,
    empty_dirs: Vec<&'static str>,
    certificate: bool,
    containers: Option<String>,
    drop_in: Option<String>,
}

const DIRS: [&str; 5] = ["_default", "docker.io", "r.example:5000", "r.example_5000_", "other.example"];

fn machine() -> impl Strategy<Value = Machine> {
    let hosts = proptest::collection::vec(hosts_file(), DIRS.len());
    let empty_dirs = proptest::sample::subsequence(
        vec![
            "etc/containerd",
            CERTS,
            "etc/containerd/certs.d/docker.io",
            "etc/containers",
            "etc/containers/registries.conf.d",
        ],
        0..=5,
    );
    let registries = prop_oneof![
        Just(None),
        Just(Some("[[registry]]\nprefix = \"docker.io\"\n".to_owned())),
        Just(Some("not toml".to_owned()))
    ];
    let drop_in = prop_oneof![3 => Just(None), 1 => Just(Some("# theirs\n".to_owned()))];
    (hosts, empty_dirs, any::<bool>(), registries, drop_in).prop_map(
        |(hosts, empty_dirs, certificate, containers, drop_in)| Machine {
            hosts: DIRS.iter().copied().zip(hosts).collect(),
            empty_dirs,
            certificate,
            containers,
            drop_in,
        },
    )
}

impl Machine {
    fn build(&self) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (dir, text) in &self.hosts {
            if let Some(text) = text {
                write(root.path(), &format!("{CERTS}/{dir}/hosts.toml"), text);
            }
        }
        for dir in &self.empty_dirs {
            fs::create_dir_all(root.path().join(dir)).unwrap();
        }
        if self.certificate {
            write(root.path(), &format!("{CERTS}/docker.io/ca.crt"), "PEM");
        }
        if let Some(text) = &self.containers {
            write(root.path(), "etc/containers/registries.conf", text);
        }
        if let Some(text) = &self.drop_in {
            write(root.path(), DROP_IN, text);
        }
        root
    }
}

const NAMES: [&str; 3] = ["_default", "docker.io", "r.example:5000"];

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn uninstall_after_install_is_the_tree_as_it_was(machine in machine()) {
        let root = machine.build();
        let before = tree(root.path());
        install(root.path(), &NAMES);
        let once = tree(root.path());
        install(root.path(), &NAMES);
        prop_assert_eq!(tree(root.path()), once);
        uninstall(root.path());
        prop_assert_eq!(tree(root.path()), before);
    }

    /// After a stop at any step every file of the runtimes is the old one or the new one, and a later run mends the rest.
    #[test]
    fn a_stop_at_any_step_of_either_is_mended_by_the_next_run(machine in machine(), at in any::<proptest::sample::Index>(), back in any::<bool>()) {
        let root = machine.build();
        let before = tree(root.path());
        if back {
            install(root.path(), &NAMES);
        }
        let (ops, _) = if back {
            plan_uninstall(&place(root.path())).unwrap()
        } else {
            plan_install(&place(root.path()), &wanted(&NAMES)).unwrap()
        };
        apply(&ops[..at.index(ops.len() + 1)]).unwrap();

        for (path, (_, _, content)) in tree(root.path()) {
            let is_read = path.ends_with("hosts.toml") && !path.to_string_lossy().contains(".shoal-tmp");
            if is_read {
                let text = String::from_utf8(content.clone()).unwrap();
                let is_old = before.get(&path).is_some_and(|(_, _, old)| *old == content);
                let is_new = matches!(block::find(&text), Ok(Some(_))) && text.parse::<toml::Table>().is_ok();
                prop_assert!(is_old || is_new, "{}: {text}", path.display());
            }
        }
        install(root.path(), &NAMES);
        uninstall(root.path());
        let left: Vec<_> = tree(root.path()).into_iter().filter(|(path, was)| before.get(path) != Some(was)).collect();
        // A directory made for a file that a stopped uninstall has removed already may stay: empty, and harmless but for itself.
        prop_assert!(left.iter().all(|(path, (mode, _, _))| mode & libc::S_IFMT == libc::S_IFDIR && back && !before.contains_key(path)), "{left:?}");
        prop_assert!(before.iter().all(|(path, was)| tree(root.path()).get(path) == Some(was)));
    }
}

#[test]
fn the_data_directory_is_made_for_its_owner_under_the_root() {
    let root = tempfile::tempdir().unwrap();
    let owner = {
        let metadata = fs::metadata(root.path()).unwrap();
        (metadata.uid(), metadata.gid())
    };
    for _ in 0..2 {
        make_data_dir(root.path(), Path::new("/var/lib/shoal"), owner).unwrap();
    }
    let metadata = fs::metadata(root.path().join("var/lib/shoal")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), owner);
    assert!(make_data_dir(root.path(), Path::new("/var/../etc"), owner).is_err());
    assert_eq!(super::owner("65532"), Ok((65532, 65532)));
    assert_eq!(super::owner("1:2"), Ok((1, 2)));
    assert!(super::owner("shoal").is_err());
}
