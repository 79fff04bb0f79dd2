//! A proxy's user name and password, from files.
//!
//! Owns: reading them. Must not know: what they open.

use std::io::Read as _;
use std::path::{Path, PathBuf};

/// What both protocols can carry.
const SECRET_BYTES_MAX: usize = 255;
/// Where systemd puts what `LoadCredential=` names.
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// The key that names a file, and why it cannot be used.
pub(super) type Unread = (&'static str, String);

/// Without `Debug`, so that nobody prints it.
#[derive(Clone)]
pub(super) struct Credentials {
    pub(super) username: String,
    pub(super) password: String,
}

impl Credentials {
    /// The errors are key and why, one for each file, with its path and nothing of what it holds.
    pub(super) fn read(username_file: &Path, password_file: &Path) -> Result<Self, Vec<Unread>> {
        let username = match secret(username_file) {
            Ok(username) if username.contains(':') => {
                Err(format!("{}: holds a colon, which cannot be sent", username_file.display()))
            }
            read => read,
        };
        match (username, secret(password_file)) {
            (Ok(username), Ok(password)) => Ok(Self { username, password }),
            (username, password) => {
                let faults = [("username_file", username.err()), ("password_file", password.err())];
                Err(faults.into_iter().filter_map(|(key, why)| Some((key, why?))).collect())
            }
        }
    }
}

/// The one line of the file, trimmed.
fn secret(file: &Path) -> Result<String, String> {
    let credentials = std::env::var_os(CREDENTIALS_DIRECTORY).map(PathBuf::from);
    let at = place(file, credentials.as_deref());
    let wrong = |why: &str| Err(format!("{}: {why}", at.display()));
    let mut text = String::new();
    // Somebody may name a device or a disk image.
    let read = std::fs::File::open(&at).and_then(|open| open.take(4_096).read_to_string(&mut text));
    match read {
        Ok(_) => {}
        Err(error) if is_name(file) && credentials.is_none() => {
            return wrong(&format!("{error} (if it is a credential of the systemd service: only the service has it)"));
        }
        Err(error) => return wrong(&error.to_string()),
    }
    match text.trim() {
        "" => wrong("is empty"),
        line if line.contains(char::is_control) => wrong("holds more than one line of text"),
        line if line.len() > SECRET_BYTES_MAX => wrong("holds more than 255 bytes"),
        line => Ok(line.to_owned()),
    }
}

/// A bare name is a credential of the service, where it has any; everything else is a path.
fn place(file: &Path, credentials: Option<&Path>) -> PathBuf {
    match credentials {
        Some(folder) if is_name(file) => folder.join(file),
        _ => file.to_owned(),
    }
}

fn is_name(file: &Path) -> bool {
    file.components().count() == 1 && file.is_relative()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_one_line_and_an_error_never_shows_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).unwrap();
            dir.path().join(name)
        };
        let user = file("user", " me \n");
        let read = Credentials::read(&user, &file("password", "hush hush\r\n")).ok().unwrap();
        assert_eq!((read.username.as_str(), read.password.as_str()), ("me", "hush hush"));
        for (name, text) in [("empty", "\n"), ("two", "hush\nhush"), ("long", &"hush".repeat(100))] {
            let [(key, why)] = Credentials::read(&user, &file(name, text)).err().unwrap().try_into().unwrap();
            assert!(key == "password_file" && why.contains(name) && !why.contains("hush"), "{why}");
        }
        let both = Credentials::read(&file("colon", "hush:hush"), &dir.path().join("gone")).err().unwrap();
        let [(colon, why), (gone, why_gone)] = both.try_into().unwrap();
        assert!(colon == "username_file" && why.contains("colon") && !why.contains("hush"), "{why}");
        assert!(gone == "password_file" && why_gone.contains("gone"), "{why_gone}");
    }

    #[test]
    fn a_bare_name_is_a_credential_of_the_service() {
        let folder = Some(Path::new("/run/credentials/fetchbox"));
        assert_eq!(place(Path::new("eu-password"), folder), Path::new("/run/credentials/fetchbox/eu-password"));
        assert_eq!(place(Path::new("eu-password"), None), Path::new("eu-password"));
        assert_eq!(place(Path::new("./eu"), folder), Path::new("./eu"));
        assert_eq!(place(Path::new("/etc/eu"), folder), Path::new("/etc/eu"));
    }
}
