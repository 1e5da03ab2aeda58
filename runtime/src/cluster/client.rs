//! Asks the JobManager of a job for something, from outside of the cluster.

use futures::{StreamExt, channel::mpsc};

use super::{
    connection,
    rpc::{ClientRequest, ClientResponse, ToJobManager},
};
use crate::platform::{Address, Platform};

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The request was not sent.
    #[error("no JobManager can be reached at {address}: {reason}")]
    Unreachable { address: Address, reason: String },
    /// It was sent, and may be carried out.
    #[error("the connection to the JobManager at {address} broke before it answered: {reason}")]
    Broken { address: Address, reason: String },
}

/// Sends `request` and waits for the answer, however long it takes.
///
/// # Errors
/// [`ClientError`].
pub async fn ask(
    platform: &Platform,
    address: &Address,
    request: ClientRequest,
    connect_timeout: std::time::Duration,
) -> Result<ClientResponse, ClientError> {
    let by = platform.clock.now() + connect_timeout;
    let label = format!("{}->jobmanager", platform.process);
    let connection = platform
        .transport
        .connect(address, &label, by)
        .await
        .map_err(|error| ClientError::Unreachable { address: address.clone(), reason: error.to_string() })?;
    let (answered, mut answers) = mpsc::unbounded::<Result<ClientResponse, String>>();
    let down = answered.clone();
    let outbox = connection::start(
        platform,
        "jobmanager",
        connection,
        move |response: ClientResponse| {
            // Whoever asked waits below.
            let _ = answered.unbounded_send(Ok(response));
        },
        move |reason| {
            let _ = down.unbounded_send(Err(reason));
        },
    );
    outbox.send(&ToJobManager::Client(request));
    let broken = |reason| ClientError::Broken { address: address.clone(), reason };
    match answers.next().await {
        Some(Ok(response)) => Ok(response),
        Some(Err(reason)) => Err(broken(reason)),
        None => Err(broken("it was closed".to_string())),
    }
}
