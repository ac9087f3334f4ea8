//! Which server a client command speaks to.

use std::fmt;

use clap::Args;

use super::failure::Failure;
use crate::client::Client;

/// The server and the right to use it.
#[derive(Clone, Args)]
pub(crate) struct ServerArgs {
    /// The server's address
    #[arg(
        long,
        env = "LOCKGATE_SERVER",
        default_value = "http://127.0.0.1:8080",
        value_name = "URL"
    )]
    server: String,
    /// An admin or publish token, where the server asks for one; better given by the environment,
    /// because a process' arguments are no secret
    #[arg(long, env = "LOCKGATE_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
}

/// Without the token, so that it stands in no log.
impl fmt::Debug for ServerArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerArgs").field("server", &self.server).finish_non_exhaustive()
    }
}

impl ServerArgs {
    /// A client of that server; connects with its first request.
    pub(crate) fn client(self) -> Result<Client, Failure> {
        let Self { server, token } = self;
        // A token that comes from a file brings the end of its line along.
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        Ok(Client::new(server.trim(), token)?)
    }
}
