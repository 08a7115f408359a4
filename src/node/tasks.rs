//! Tasks that run as long as the node.
//!
//! Owns the policy for their end: if one of them ends, the node ends with an error that names the task. Starts
//! those that belong to no other component: the reload of certificates, tokens and JWKS.

use std::future::Future;

use tokio::task::JoinSet;

use crate::auth::reload::RELOAD_INTERVAL;
use crate::node::config::NodeConfig;

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

/// Spawns a task for each configured file and key source.
pub(super) fn start_reloads(config: &NodeConfig, tasks: &mut EssentialTasks) {
    for (name, task) in config.access.reload_tasks() {
        tasks.spawn(name, task);
    }
    tasks.spawn("mesh files", config.mesh_security.clone().reload_on_change());
    if let Some(files) = config.tls.as_ref().and_then(|tls| tls.files.clone()) {
        tasks.spawn("certificate", files.reload_on_change(RELOAD_INTERVAL));
    }
    if let Some(tokens) = config.admin_tokens.clone() {
        tasks.spawn("admin tokens", tokens.reload_on_change(RELOAD_INTERVAL));
    }
}
