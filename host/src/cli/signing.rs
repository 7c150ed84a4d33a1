//! Signing components and checking signatures.

use super::{admin::read_component, exit::CliError, output};
use crate::{
    files::{self, For, create, replace},
    limits,
    signing::{self, Component, PublicKey},
};
use serde_json::json;
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// `path` with something behind its name.
fn with(path: &Path, more: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(more);
    name.into()
}

fn at(path: &Path) -> impl Fn(String) -> CliError {
    let path = path.display().to_string();
    move |why| CliError::failure(format!("{path}: {why}"))
}

fn text(path: &Path, bytes_max: u64) -> Result<String, CliError> {
    let bytes = files::read(path, bytes_max)
        .map_err(|error| CliError::failure(format!("{} {error}", path.display())))?;
    String::from_utf8(bytes).map_err(|_| at(path)("it is not text".into()))
}

pub fn keygen(out: &Path, json: bool) -> Result<(), CliError> {
    let (private_file, public_file) = (with(out, ".pem"), with(out, ".pub.pem"));
    for file in [&private_file, &public_file] {
        if file.exists() {
            return Err(at(file)("it is there already, and is not changed".into()));
        }
    }
    let (private, public) = signing::generate().map_err(CliError::failure)?;
    create(&private_file, private.as_bytes(), For::Owner)
        .map_err(|e| at(&private_file)(e.to_string()))?;
    create(&public_file, public.to_pem().as_bytes(), For::All)
        .map_err(|e| at(&public_file)(e.to_string()))?;
    if json {
        let files = [&private_file, &public_file].map(|file| file.display().to_string());
        let [private, file] = files;
        let made = json!({"private": private, "public": file, "key": public.to_string()});
        return output::line(&made.to_string());
    }
    output::line(&format!("{}: keep it secret", private_file.display()))?;
    output::line(&format!(
        "{}: for the policy, or as `public = \"{public}\"`",
        public_file.display()
    ))
}

pub fn sign(file: &Path, key: &Path, json: bool) -> Result<(), CliError> {
    let component = read_component(file)?;
    let private = text(key, limits::KEY_FILE_BYTES_MAX)?;
    let (signature, public) = signing::sign(&private, &component).map_err(at(key))?;
    let out = with(file, signing::EXTENSION);
    // In place of one of a component that was built before.
    replace(&out, signature.to_line().as_bytes(), For::All).map_err(|e| at(&out)(e.to_string()))?;
    match json {
        true => output::line(
            &json!({"signature": out.display().to_string(), "key": public.to_string()}).to_string(),
        ),
        false => output::line(&format!("{}: signed by {public}", out.display())),
    }
}

pub fn verify(file: &Path, key: &Path, sig: Option<&Path>, json: bool) -> Result<(), CliError> {
    let component = read_component(file)?;
    let public = PublicKey::parse(&text(key, limits::KEY_FILE_BYTES_MAX)?).map_err(at(key))?;
    let sig = sig.map_or_else(|| with(file, signing::EXTENSION), Path::to_owned);
    let signature = signing::read(&text(&sig, limits::SIGNATURE_FILE_BYTES_MAX)?, &component);
    let signature = signature.map_err(at(&sig))?;
    if !public.has_signed(&Component::new(&component), &signature) {
        return Err(at(&sig)(format!(
            "it is not a signature of {} by {public}: another key, or the component was changed \
             after it was signed",
            file.display()
        )));
    }
    match json {
        true => output::line(&json!({"ok": true, "key": public.to_string()}).to_string()),
        false => output::line(&format!("{}: signed by {public}", file.display())),
    }
}

/// A component's signature as a node takes it: that in `given`, else that beside the component, if
/// there is one.
///
/// # Errors
/// The file can't be read, or is no signature of this component.
pub fn of_component(
    file: &Path,
    given: Option<&Path>,
    component: &[u8],
) -> Result<Option<String>, CliError> {
    let beside = with(file, signing::EXTENSION);
    let sig = match given {
        Some(given) => given,
        None if beside.exists() => &beside,
        None => return Ok(None),
    };
    let signature = signing::read(&text(sig, limits::SIGNATURE_FILE_BYTES_MAX)?, component);
    Ok(Some(signing::encode(&signature.map_err(at(sig))?)))
}
