//! The official conformance suite against the gateway, with distribution's registry behind it.

use anyhow::{Result, ensure};
use shoal_tests::{
    Setup, Shoal,
    conformance::{self, Empty, Split},
    ipfs::{Folder, free, missing},
    shoal::Listens,
};

/// Fewer would mean that the suite did not get far.
const MANY: usize = 300;

#[test]
#[ignore = "needs the conformance suite and Debian's docker-registry"]
fn every_test_of_the_suite_that_upstream_passes_is_passed_through_the_gateway() -> Result<()> {
    let Some(program) = conformance::program()? else { return missing("the conformance suite") };
    let folder = Folder::new("conformance")?;
    let alone = Empty::start(&folder.0.join("alone"))?;
    let expected = conformance::check(&program, alone.address, &folder.0.join("alone"))?;
    let count = expected.values().sum::<usize>();
    ensure!(count >= MANY, "the registry alone passes {count} tests");

    let upstream = Empty::start(&folder.0.join("upstream"))?;
    let listens = Listens { gateway: free()?, swarm: free()?, metrics: free()? };
    let setup = Setup {
        registries: vec![(upstream.address.to_string(), format!("http://{}", upstream.address))],
        gateway: format!("default_registry = \"{}\"\n", upstream.address),
        // The suite moves a tag and wants to see it moved at once.
        more: "[fetch]\ntag_ttl = \"1ms\"\n".to_owned(),
        ..Setup::default()
    };
    let node = Shoal::start_on_loopback(&folder.0.join("shoal"), listens, &setup)?;
    let split = Split::start(node.listens.gateway, upstream.address)?;
    let passed = conformance::check(&program, split.address, &folder.0.join("through"))?;
    let lost: Vec<String> = expected
        .iter()
        .map(|(name, count)| (name, count, passed.get(name).copied().unwrap_or(0)))
        .filter(|(_, count, passed)| passed < count)
        .map(|(name, count, passed)| format!("{name}: {passed} of {count}"))
        .collect();
    ensure!(lost.is_empty(), "of {count} tests that pass without Shoal these do not with it:\n{}", lost.join("\n"));
    Ok(())
}
