//! Tasks that run as long as the node.
//!
//! Owns the policy for their end: if one of them ends, the node ends with an error that names the task.

use std::future::Future;

use tokio::task::JoinSet;

/// The set of essential tasks. Dropping it aborts them.
#[derive(Default)]
pub struct EssentialTasks(JoinSet<&'static str>);

impl EssentialTasks {
    /// `name` identifies the task in the error of the node.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(async move {
            task.await;
            name
        });
    }

    /// Waits until one of the tasks ends, and returns its name, or the panic that ended it.
    pub(super) async fn one_ended(&mut self) -> String {
        match self.0.join_next().await {
            Some(Ok(name)) => name.to_owned(),
            Some(Err(error)) => error.to_string(),
            None => "last".to_owned(),
        }
    }

    /// Aborts all tasks and waits for them.
    pub(super) async fn stop(&mut self) {
        self.0.shutdown().await;
    }
}
