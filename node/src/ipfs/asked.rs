//! What a request asks for: pure.

use shoal_content::{Cid, dag::Span};

/// Media type of a block.
pub(super) const RAW: &str = "application/vnd.ipld.raw";

/// Media type of a CAR file.
pub(super) const CAR: &str = "application/vnd.ipld.car";

/// A request for `/ipfs/<cid>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) cid: Cid,
    pub(super) format: Format,
}

/// The form of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// The block's bytes.
    Raw,
    /// Blocks in a CAR file.
    Car(Part),
}

/// Which blocks of a DAG.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The root alone.
    Block,
    /// The bytes of a file: `dag-scope=entity`, with or without `entity-bytes`, and `dag-scope=all`, which is the same for a file.
    File(EntityBytes),
}

/// `entity-bytes=from:to`: positions in a file, both included; negative ones count from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntityBytes {
    from: i64,
    /// `None`: to the end, written `*`.
    to: Option<i64>,
}

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("this is a trustless gateway: ask for format=raw or format=car, not {0}")]
    NotAcceptable(String),
    #[error("{0}")]
    Malformed(String),
    #[error("there are no paths below a file")]
    BelowFile,
}

impl Format {
    /// Of a file that it is saved in.
    pub(super) fn suffix(&self) -> &'static str {
        match self {
            Format::Raw => "bin",
            Format::Car(_) => "car",
        }
    }
}

impl EntityBytes {
    pub(super) const ALL: Self = Self { from: 0, to: None };

    fn parse(text: &str) -> Option<Self> {
        let (from, to) = text.split_once(':')?;
        let to = if to == "*" { None } else { Some(to.parse().ok()?) };
        Some(Self { from: from.parse().ok()?, to })
    }

    /// The bytes of a file of `size` bytes that are meant; none where the range is empty or beyond the end.
    pub(super) fn within(self, size: u64) -> Span {
        let at = |position: i64| match u64::try_from(position) {
            Ok(position) => position,
            Err(_) => size.saturating_sub(position.unsigned_abs()),
        };
        let start = at(self.from).min(size);
        let end = match self.to {
            None => size,
            // Before the first byte.
            Some(to) if to < 0 && to.unsigned_abs() > size => 0,
            Some(to) => at(to).saturating_add(1).min(size),
        };
        Span::Bytes(start..end.max(start))
    }
}

impl Asked {
    /// The same for all answers that are the same, byte for byte.
    pub(super) fn etag(&self) -> String {
        match &self.format {
            Format::Raw => format!("\"{}.raw\"", self.cid),
            Format::Car(Part::Block) => format!("\"{}.car.block\"", self.cid),
            Format::Car(Part::File(EntityBytes { from, to })) => {
                format!("\"{}.car.{from}_{}\"", self.cid, to.map_or_else(|| "end".to_owned(), |to| to.to_string()))
            }
        }
    }
}

/// Reads what comes after `/ipfs/`, the query, and the values of `Accept`. `format` in the query wins over them.
pub(super) fn parse<'a>(path: &str, query: &str, accept: impl Iterator<Item = &'a str>) -> Result<Asked, Refusal> {
    let (cid, below) = path.split_once('/').unwrap_or((path, ""));
    let cid: Cid = cid.parse().map_err(|error| Refusal::Malformed(format!("{cid:?} is not a CID: {error}")))?;
    if !below.is_empty() {
        return Err(Refusal::BelowFile);
    }

    let (mut format, mut scope, mut bytes) = (None, None, None);
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        // The values that mean something here have no letter that needs escaping but the colon and the star.
        let value = value.replace("%3A", ":").replace("%3a", ":").replace("%2A", "*").replace("%2a", "*");
        match name {
            "format" => format = Some(value),
            "dag-scope" => scope = Some(value),
            "entity-bytes" => bytes = Some(value),
            // Parameters that change nothing here are for other gateways.
            _ => {}
        }
    }

    let is_car = match format.as_deref() {
        Some("raw") => false,
        Some("car") => true,
        Some(other) => return Err(Refusal::NotAcceptable(other.to_owned())),
        None => accepts_car(accept)?,
    };
    if !is_car {
        return Ok(Asked { cid, format: Format::Raw });
    }
    let bytes = bytes.map(|text| {
        let refusal = || Refusal::Malformed(format!("entity-bytes={text} is not from:to"));
        EntityBytes::parse(&text).ok_or_else(refusal)
    });
    let bytes = bytes.transpose()?;
    let part = match scope.as_deref() {
        Some("block") => Part::Block,
        Some("entity") => Part::File(bytes.unwrap_or(EntityBytes::ALL)),
        // A range means an entity.
        None => Part::File(bytes.unwrap_or(EntityBytes::ALL)),
        Some("all") => Part::File(EntityBytes::ALL),
        Some(other) => return Err(Refusal::Malformed(format!("dag-scope={other} is not block, entity or all"))),
    };
    Ok(Asked { cid, format: Format::Car(part) })
}

/// Whether the first media type that can be answered is CAR.
fn accepts_car<'a>(accept: impl Iterator<Item = &'a str>) -> Result<bool, Refusal> {
    let mut seen = Vec::new();
    for entry in accept.flat_map(|value| value.split(',')) {
        let mut parts = entry.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default();
        if media_type.eq_ignore_ascii_case(RAW) {
            return Ok(false);
        }
        let is_version_1 =
            |parameter: &str| parameter.split_once('=').is_none_or(|(name, value)| name != "version" || value == "1");
        if media_type.eq_ignore_ascii_case(CAR) && parts.all(is_version_1) {
            return Ok(true);
        }
        seen.push(media_type);
    }
    Err(Refusal::NotAcceptable(if seen.is_empty() { "nothing".to_owned() } else { seen.join(", ") }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CID: &str = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";

    fn format(query: &str, accept: &[&str]) -> Result<Format, Refusal> {
        parse(CID, query, accept.iter().copied()).map(|asked| asked.format)
    }

    fn span(text: &str, size: u64) -> std::ops::Range<u64> {
        match EntityBytes::parse(text).unwrap().within(size) {
            Span::Bytes(range) => range,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_query_wins_over_accept_and_one_of_them_is_needed() {
        assert_eq!(format("format=raw", &[CAR]), Ok(Format::Raw));
        assert_eq!(format("", &["text/html, application/vnd.ipld.raw;q=0.5"]), Ok(Format::Raw));
        let all = Format::Car(Part::File(EntityBytes::ALL));
        assert_eq!(format("", &["application/vnd.ipld.car; version=1; order=dfs; dups=y"]), Ok(all.clone()));
        assert_eq!(format("format=car&dag-scope=all", &[]), Ok(all));
        assert_eq!(format("format=car&dag-scope=block", &[]), Ok(Format::Car(Part::Block)));
        for (query, accept) in
            [("", "*/*"), ("", "text/html"), ("format=tar", RAW), ("", "application/vnd.ipld.car;version=2")]
        {
            assert!(matches!(format(query, &[accept]), Err(Refusal::NotAcceptable(_))), "{query} {accept}");
        }
        assert!(matches!(format("", &[]), Err(Refusal::NotAcceptable(_))));
    }

    #[test]
    fn what_is_wrong_is_told_apart_from_what_is_not_there() {
        assert!(matches!(parse("bafynot", "format=raw", [].into_iter()), Err(Refusal::Malformed(_))));
        assert_eq!(parse(&format!("{CID}/a"), "format=raw", [].into_iter()), Err(Refusal::BelowFile));
        for query in ["entity-bytes=5", "entity-bytes=a:b", "dag-scope=some", "entity-bytes=1:99999999999999999999"] {
            assert!(matches!(format(&format!("format=car&{query}"), &[]), Err(Refusal::Malformed(_))), "{query}");
        }
    }

    #[test]
    fn entity_bytes_are_both_included_and_count_from_the_end_where_negative() {
        assert_eq!(span("0:*", 10), 0..10);
        assert_eq!(span("3:5", 10), 3..6);
        assert_eq!(span("-4:*", 10), 6..10);
        assert_eq!(span("-4:-2", 10), 6..9);
        assert_eq!(span("2:-1", 10), 2..10);
        assert_eq!(span("0:9223372036854775807", 10), 0..10);
        assert_eq!(span("-9223372036854775808:*", 10), 0..10);
        assert!(span("20:30", 10).is_empty() && span("5:3", 10).is_empty() && span("0:-11", 10).is_empty());
        assert_eq!(
            format("format=car&entity-bytes=1%3A%2A", &[]).unwrap(),
            Format::Car(Part::File(EntityBytes { from: 1, to: None }))
        );
    }
}
