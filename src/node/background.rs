//! Spawns the tasks that keep files and keys up to date: certificates, tokens, JWKS.

use super::config::NodeConfig;
use super::tasks::EssentialTasks;
use crate::auth::reload::RELOAD_INTERVAL;

/// Spawns a task for each configured file and key source.
pub(super) fn start(config: &NodeConfig, tasks: &mut EssentialTasks) {
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
