//! The TOML file, key by key, with the line of each.

use std::collections::BTreeMap;

use shoal_content::Registry;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    FileText, Given,
    error::{ConfigError, Source},
    keys::{KEYS, Key, Kind},
    registries::{self, RegistryAccess},
    value::Value,
};

const REGISTRIES: &str = "registries";

/// What the file gives. The first thing that is wrong in it is the error.
pub(crate) fn read(
    file: FileText<'_>,
    registries: &mut BTreeMap<Registry, (RegistryAccess, Source)>,
) -> Result<BTreeMap<&'static str, Given>, ConfigError> {
    let table = DeTable::parse(file.text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let (line, column) = position(file.text, at);
        ConfigError::Syntax { path: file.path.to_owned(), line, column, message: error.message().to_owned() }
    })?;
    let mut reader = Reader { file, given: BTreeMap::new(), registries };
    reader.section("", table.get_ref())?;
    Ok(reader.given)
}

/// Line and column of a byte offset, counted from 1.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.bytes().filter(|&byte| byte == b'\n').count() + 1;
    let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
    (line, column)
}

struct Reader<'a> {
    file: FileText<'a>,
    given: BTreeMap<&'static str, Given>,
    registries: &'a mut BTreeMap<Registry, (RegistryAccess, Source)>,
}

type Pair<'a, 'i> = (&'a Spanned<std::borrow::Cow<'i, str>>, &'a Spanned<DeValue<'i>>);

impl Reader<'_> {
    /// The keys of a table whose own name, dotted and with the last dot, is `prefix`.
    fn section(&mut self, prefix: &str, table: &DeTable<'_>) -> Result<(), ConfigError> {
        for pair in in_order(table) {
            let name = format!("{prefix}{}", pair.0.get_ref());
            let source = self.source(pair.0);
            let value = pair.1.get_ref();
            let section = format!("{name}.");
            let is_section = KEYS.iter().any(|key| key.name.starts_with(&section));
            if name == REGISTRIES {
                self.registries(table_of(&name, value, &source)?)?;
            } else if let Some(key) = Key::find(&name) {
                let value = written(key, value).map_err(|reason| bad(&name, value, &source, reason))?;
                self.given.insert(key.name, Given { value, source });
            } else if is_section {
                self.section(&section, table_of(&name, value, &source)?)?;
            } else {
                return Err(unknown(&name, prefix, source));
            }
        }
        Ok(())
    }

    fn registries(&mut self, table: &DeTable<'_>) -> Result<(), ConfigError> {
        for (name, value) in in_order(table) {
            let source = self.source(name);
            let shown = format!("{REGISTRIES}.{:?}", name.get_ref());
            let registry: Registry = name.get_ref().parse().map_err(|error: shoal_content::name::NameError| {
                bad(&shown, value.get_ref(), &source, error.to_string())
            })?;
            let access = self.access(&shown, table_of(&shown, value.get_ref(), &source)?)?;
            self.registries.insert(registry, (access, source));
        }
        Ok(())
    }

    fn access(&self, registry: &str, table: &DeTable<'_>) -> Result<RegistryAccess, ConfigError> {
        let mut access = RegistryAccess::default();
        for (field, value) in in_order(table) {
            let source = self.source(field);
            let name = format!("{registry}.{}", field.get_ref());
            let value = value.get_ref();
            let text = || value.as_str().filter(|text| !text.is_empty()).ok_or_else(|| "must be a string".to_owned());
            let result = match field.get_ref().as_ref() {
                "endpoint" => text().and_then(registries::endpoint).map(|endpoint| access.endpoint = Some(endpoint)),
                "ca" => text().map(|path| access.ca = Some(path.into())),
                "token_hosts" => match value.as_array() {
                    Some(items) => items
                        .iter()
                        .map(|item| registries::host(item.get_ref().as_str().ok_or("must be an array of strings")?))
                        .collect::<Result<_, String>>()
                        .map(|hosts| access.token_hosts = hosts),
                    None => Err("must be an array of strings".to_owned()),
                },
                other => match (access.switch(other), value.as_bool()) {
                    (Some(switch), Some(value)) => {
                        *switch = value;
                        Ok(())
                    }
                    (Some(_), None) => Err("must be true or false".to_owned()),
                    (None, _) => return Err(ConfigError::unknown(other, source, registries::FIELDS.iter().copied())),
                },
            };
            result.map_err(|reason| bad(&name, value, &source, reason))?;
        }
        Ok(access)
    }

    fn source<T>(&self, key: &Spanned<T>) -> Source {
        let (line, _) = position(self.file.text, key.span().start);
        Source::File { path: self.file.path.to_owned(), line }
    }
}

/// The pairs as they stand in the file, so that the error told is the first there.
fn in_order<'a, 'i>(table: &'a DeTable<'i>) -> Vec<Pair<'a, 'i>> {
    let mut pairs: Vec<_> = table.iter().collect();
    pairs.sort_by_key(|(key, _)| key.span().start);
    pairs
}

fn table_of<'a, 'i>(name: &str, value: &'a DeValue<'i>, source: &Source) -> Result<&'a DeTable<'i>, ConfigError> {
    value.as_table().ok_or_else(|| bad(name, value, source, format!("must be a table: [{name}]")))
}

fn unknown(name: &str, prefix: &str, source: Source) -> ConfigError {
    let siblings = KEYS.iter().map(|key| key.name).filter(|known| known.starts_with(prefix));
    ConfigError::unknown(name, source, siblings.chain((prefix.is_empty()).then_some(REGISTRIES)))
}

fn bad(name: &str, value: &DeValue<'_>, source: &Source, reason: impl Into<String>) -> ConfigError {
    let shown = match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Boolean(value) => Value::Bool(*value),
        other => return bad_type(name, other, source, reason),
    };
    ConfigError::bad(name, &shown, source, reason)
}

fn bad_type(name: &str, value: &DeValue<'_>, source: &Source, reason: impl Into<String>) -> ConfigError {
    ConfigError::Bad {
        key: name.chars().take(100).collect(),
        value: format!("({})", value.type_str()),
        at: super::error::Place(source.clone()),
        reason: reason.into(),
    }
}

/// The value in the form that the key's kind asks for.
fn written(key: &Key, value: &DeValue<'_>) -> Result<Value, String> {
    match (key.kind, value) {
        (Kind::Text, DeValue::String(text)) => Ok(Value::Text(text.to_string())),
        (Kind::Bool, DeValue::Boolean(value)) => Ok(Value::Bool(*value)),
        (Kind::List, DeValue::Array(items)) => {
            let texts = items.iter().map(|item| item.get_ref().as_str().map(str::to_owned));
            let list: Option<Vec<_>> = texts.collect();
            list.map(Value::List).ok_or_else(|| "must be an array of strings".to_owned())
        }
        (Kind::Text, _) => Err(match key.default {
            Some(example) => format!("must be a string, such as \"{example}\""),
            None => "must be a string".to_owned(),
        }),
        (Kind::Bool, _) => Err("must be true or false".to_owned()),
        (Kind::List, _) => Err("must be an array of strings".to_owned()),
    }
}
