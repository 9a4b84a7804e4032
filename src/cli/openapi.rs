//! `xtwebhooks openapi`: the OpenAPI document, for the committed `openapi.json` and for client generators.

use super::{failure::CommandFailure, output::Output};
use crate::api;

pub(super) fn execute(output: Output) -> Result<(), CommandFailure> {
    Ok(output.line(&pretty())?)
}

/// The document as it is committed.
pub(super) fn pretty() -> String {
    serde_json::to_string_pretty(&api::document()).expect("the document is JSON")
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn the_committed_document_is_that_of_the_handlers() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
        let document = format!("{}\n", pretty());
        if std::env::var_os("XT_UPDATE").is_some() {
            fs::write(&path, document).expect("openapi.json can be written");
            return;
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == document, "update openapi.json with `XT_UPDATE=1 cargo test --lib openapi`");
    }
}
