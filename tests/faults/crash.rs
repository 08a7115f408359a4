//! A node that dies at once: `kill -9`, and started again at the same address.

use crate::processes::{Cluster, Options};
use crate::watch::{Watch, unanswered};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_very_next_roll_call_after_a_kill_has_no_row_of_the_dead_node() {
    let mut cluster = Cluster::start(3, Options::default()).await;
    let _here = cluster.connect(0, "here", &["a"]).await;
    let _gone = [cluster.connect(2, "gone-1", &["a"]).await, cluster.connect(2, "gone-2", &["a"]).await];
    let watch = Watch::start(&cluster, &[0, 1], &["a"]);
    assert!(cluster.agree(&[0, 1, 2], "a").await);
    cluster.kill(2);
    let (full, call) = cluster.call(1, "a").await;
    assert_eq!(call.rows.len(), 1, "{full}");
    assert_eq!(full["complete"], false, "{full}");
    assert_eq!(unanswered(&full)["node-3"], "refused", "{full}");
    assert_eq!(full["unresolved"], 2, "{full}");
    crate::common::until("complete without it", || cluster.agree(&[0, 1], "a")).await;
    watch.end().await.all_answered();
    assert_eq!(cluster.differences(&[0, 1]).await, Vec::<String>::new());
}
