//! The `Link` header of a list that upstream answered, turned so that the client comes back here for the next page. Pure.
//!
//! Upstream names its own path or URL. A client that followed it would ask this host for a path that lacks the registry, or
//! leave this host with whatever credentials it has here.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::path::{Name, Place};

/// What may not stand bare in the value of a query.
const NOT_IN_QUERY: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'<').add(b'>').add(b'&').add(b'+').add(b':').add(b'%');

/// The header for the client; `None` where upstream's names nothing that could be asked for here.
pub(crate) fn turned(link: &str, name: &Name, tail: &str) -> Option<String> {
    let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    // Where the next page is, is known; all that upstream has to say is its query.
    let (_, query) = target.split_once('?')?;
    let query: Vec<&str> = query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("ns=")).collect();
    let repository = name.repository.as_str();
    let mut path = match &name.place {
        Place::Path(registry) => format!("/v2/{registry}/{repository}/{tail}?{}", query.join("&")),
        Place::Ns(_) | Place::Unnamed => format!("/v2/{repository}/{tail}?{}", query.join("&")),
    };
    if let Place::Ns(registry) = &name.place {
        let separator = if query.is_empty() { "" } else { "&" };
        path.push_str(&format!("{separator}ns={}", utf8_percent_encode(registry.as_str(), NOT_IN_QUERY)));
    }
    let is_printable = |text: &str| text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    (is_printable(&path) && is_printable(parameters)).then(|| format!("<{path}>{parameters}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(place: Place) -> Name {
        Name { place, repository: "lib/app".parse().unwrap() }
    }

    #[test]
    fn the_next_page_is_asked_for_here_and_in_the_same_way() {
        let registry = "127.0.0.1:5000".parse().unwrap();
        let link = r#"</v2/lib/app/tags/list?last=v1&n=2>; rel="next""#;
        assert_eq!(
            turned(link, &name(Place::Ns("127.0.0.1:5000".parse().unwrap())), "tags/list").unwrap(),
            r#"</v2/lib/app/tags/list?last=v1&n=2&ns=127.0.0.1%3A5000>; rel="next""#
        );
        assert_eq!(
            turned(link, &name(Place::Path(registry)), "tags/list").unwrap(),
            r#"</v2/127.0.0.1:5000/lib/app/tags/list?last=v1&n=2>; rel="next""#
        );
        let absolute = r#"<https://up.example/v2/lib/app/tags/list?last=v1>; rel="next""#;
        assert_eq!(
            turned(absolute, &name(Place::Unnamed), "tags/list").unwrap(),
            r#"</v2/lib/app/tags/list?last=v1>; rel="next""#
        );
    }

    #[test]
    fn what_is_no_link_is_dropped() {
        for bad in ["", "x", "<x", "</v2/no/query>", "<?a=\r\n>; rel=next", "<?a=\u{e9}>"] {
            assert_eq!(turned(bad, &name(Place::Unnamed), "tags/list"), None, "{bad:?}");
        }
    }
}
