//! Settings as TOML text: reading with errors that name key and line, printing with words about every key.

use std::fmt::Write;

use toml::de::{DeTable, DeValue};

use super::{ChunkSettings, LabelSettings, RaftSettings, RecordSettings, Settings, SettingsError};

/// A key and the words about it.
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) about: &'static [&'static str],
}

/// The tables within the settings.
const TABLES: &[(&str, &[Key])] = &[
    ("labels", LabelSettings::KEYS),
    ("raft", RaftSettings::KEYS),
    ("records", RecordSettings::KEYS),
    ("chunks", ChunkSettings::KEYS),
];

pub(super) fn parse(text: &str, file: &str) -> Result<Settings, SettingsError> {
    let syntax = |error: toml::de::Error| SettingsError::Syntax {
        file: file.to_string(),
        line: error.span().map_or(1, |span| line_of(text, span.start)),
        why: error.message().to_string(),
    };
    let table = DeTable::parse(text).map_err(syntax)?;
    for (key, value) in table.get_ref() {
        let unknown = |key: String, at: usize, nearest: Option<String>| SettingsError::UnknownKey {
            key,
            file: file.to_string(),
            line: line_of(text, at),
            nearest,
        };
        let name: &str = key.get_ref();
        if !Settings::KEYS.iter().any(|known| known.name == name) {
            return Err(unknown(name.to_string(), key.span().start, nearest(name)));
        }
        let known = TABLES.iter().find(|(table, _)| *table == name);
        if let (Some((_, keys)), DeValue::Table(inner)) = (known, value.get_ref()) {
            for key in inner.keys() {
                let inner: &str = key.get_ref();
                if !keys.iter().any(|known| known.name == inner) {
                    return Err(unknown(
                        format!("{name}.{inner}"),
                        key.span().start,
                        nearest(&format!("{name}.{inner}")),
                    ));
                }
            }
        }
    }
    toml::from_str(text).map_err(syntax)
}

pub(super) fn print(settings: &Settings) -> String {
    let table = toml::Table::try_from(settings).expect("settings are plain values with string keys");
    let mut out = String::from("# Settings of a Weft node. Every key may be left out; its default holds then.\n");
    for key in Settings::KEYS {
        if let Some(value) = table.get(key.name).filter(|value| !value.is_table()) {
            print_key(&mut out, key, value);
        }
    }
    for (name, keys) in TABLES {
        let about = Settings::KEYS.iter().find(|key| key.name == *name).expect("tables are keys").about;
        out.push('\n');
        about.iter().for_each(|line| writeln!(out, "#{line}").expect("strings take all"));
        writeln!(out, "[{name}]").expect("strings take all");
        for key in *keys {
            if let Some(value) = table.get(*name).and_then(|table| table.get(key.name)) {
                print_key(&mut out, key, value);
            }
        }
    }
    out
}

fn print_key(out: &mut String, key: &Key, value: &toml::Value) {
    out.push('\n');
    key.about.iter().for_each(|line| writeln!(out, "#{line}").expect("strings take all"));
    writeln!(out, "{} = {value}", key.name).expect("strings take all");
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

/// The known key that differs least from `key`, if it differs by a third of its letters at the most; also a key of the
/// same name in another table.
fn nearest(key: &str) -> Option<String> {
    let inner = TABLES.iter().flat_map(|(table, keys)| keys.iter().map(move |key| format!("{table}.{}", key.name)));
    let all: Vec<String> = Settings::KEYS.iter().map(|key| key.name.to_string()).chain(inner).collect();
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_string();
    if let Some(moved) = all.iter().find(|known| last(known) == last(key)) {
        return Some(moved.clone());
    }
    let (distance, known) =
        all.into_iter().map(|known| (distance(key, &known).min(distance(key, &last(&known)) + 1), known)).min()?;
    (distance * 3 <= key.len().max(3)).then_some(known)
}

/// Letters to insert, remove or replace to make `b` of `a`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
