//! The seven roles, a file each, and what each is given.

mod delivery;
mod logging;
mod notification;
mod ordering;
mod ordering_api;
mod payment;
mod teller;

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::settings::Settings;
use super::sinks::Sinks;
use crate::flow::{Context, Failure, Role};

pub use delivery::delivery;
pub use logging::logging;
pub use notification::notification;
pub use ordering::ordering;
pub use payment::payment;
pub use teller::{email, mobile};

/// What a role is given. Cloning is cheap.
#[derive(Clone)]
pub struct Setup {
    /// The bus, the state and the shutdown.
    pub context: Context,
    /// As they were given, or a test's own.
    pub settings: Arc<Settings>,
    /// Where e-mails and texts go.
    pub sinks: Sinks,
}

impl Setup {
    /// As the flow's settings say.
    pub fn of(context: Context) -> Result<Self, Failure> {
        let settings = Settings::of(&context.settings)?;
        let sinks = Sinks::new(&settings)?;
        Ok(Self { context, settings: Arc::new(settings), sinks })
    }
}

/// One role for the table: by the flow's settings, until shutdown.
macro_rules! role {
    ($role:ident, $about:literal) => {
        Role {
            name: stringify!($role),
            about: $about,
            run: |context| -> BoxFuture<'static, Result<(), Failure>> {
                async move { $role(Setup::of(context)?).await }.boxed()
            },
        }
    };
}

/// The roles; those that others wait for come first.
pub(super) const ROLES: &[Role] = &[
    role!(logging, "keeps and prints what the others did"),
    role!(notification, "files what each customer is to be told"),
    role!(mobile, "texts the customer at each stage"),
    role!(email, "mails the customer at each stage"),
    role!(delivery, "takes paid orders over; its couriers report over HTTP"),
    role!(payment, "takes payments over HTTP, each once"),
    role!(ordering, "takes orders over HTTP and leads each through its stages"),
];
