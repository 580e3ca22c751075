//! A node's configuration as a person may write it.

use weft_node::settings::{Settings, SettingsError};

use super::frugal::frugal;

/// What is taken can be printed and comes back the same; what is not is refused with a line that is there.
pub fn body(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match frugal(data.len(), || Settings::parse(text, "weft.toml")) {
        Ok(settings) => {
            let printed = settings.documented_toml();
            assert_eq!(Settings::parse(&printed, "weft.toml"), Ok(settings), "{printed}");
        }
        Err(SettingsError::Syntax { line, .. } | SettingsError::UnknownKey { line, .. }) => {
            let lines = text.split('\n').count();
            assert!((1..=lines).contains(&line), "line {line} of {lines}");
        }
        Err(SettingsError::Invalid { key, why, .. }) => assert!(!key.is_empty() && !why.is_empty()),
        Err(SettingsError::Read { .. }) => panic!("nothing was read"),
    }
}
