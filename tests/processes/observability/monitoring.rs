//! The Prometheus configuration and the dashboard of `deploy`. promtool accepts the files, and each fault raises its
//! alert. A real Prometheus that scrapes a cluster under load has data for every query of the dashboard.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use testkit::client::Client;
use testkit::process::{Process, ServeCommand};
use testkit::programs::{prometheus, repository, run};
use testkit::redis_server::RedisServer;
use testkit::until;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// The range of rates in this test. Grafana uses some minutes instead.
const RATE_INTERVAL: &str = "3s";

fn monitoring(file: &str) -> PathBuf {
    repository().join("deploy/monitoring").join(file)
}

fn read(file: &str) -> String {
    fs::read_to_string(monitoring(file)).unwrap()
}

/// The process ends when the value is dropped.
struct Prometheus {
    process: Child,
    api: String,
    _folder: TempDir,
}

impl Prometheus {
    /// Scrapes these nodes five times a second, and evaluates the alert rules as often.
    async fn start(nodes: &[Process]) -> Self {
        let folder = TempDir::new().unwrap();
        let targets: Vec<String> = nodes.iter().map(|node| format!("\"{}\"", node.admin)).collect();
        let config = format!(
            "global: {{ scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms }}\n\
             rule_files: [\"{}\"]\n\
             scrape_configs: [{{ job_name: rollcall, static_configs: [{{ targets: [{}] }}] }}]\n",
            monitoring("alerts.yml").display(),
            targets.join(", ")
        );
        let path = folder.path().join("prometheus.yml");
        fs::write(&path, config).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = prometheus("prometheus")
            .arg(format!("--config.file={}", path.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus is needed for the tests; `make tools` installs it");
        let prometheus = Self { process, api: format!("http://127.0.0.1:{port}"), _folder: folder };
        let ready = format!("{}/-/ready", prometheus.api);
        until("prometheus is ready", || async {
            reqwest::get(&ready).await.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
        prometheus
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Value {
        let mut encoded = form_urlencoded::Serializer::new(String::new());
        encoded.extend_pairs(query);
        let url = format!("{}{path}?{}", self.api, encoded.finish());
        let answer: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
        assert_eq!(answer["status"], "success", "{query:?}: {answer}");
        answer["data"].clone()
    }

    /// The series of an instant query.
    async fn series(&self, query: &str) -> Vec<Value> {
        let data = self.get("/api/v1/query", &[("query", query)]).await;
        data["result"].as_array().unwrap().clone()
    }

    /// The values of the series of an instant query.
    async fn query(&self, query: &str) -> Vec<f64> {
        self.series(query).await.iter().map(|sample| sample["value"][1].as_str().unwrap().parse().unwrap()).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One query of the dashboard.
struct Query {
    panel: String,
    text: String,
    /// The labels that its legend names.
    legend: Vec<String>,
}

fn dashboard() -> Vec<Query> {
    let dashboard: Value = serde_json::from_str(&read("grafana/dashboards/rollcall.json")).unwrap();
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap_or(&Vec::new()) {
            let query = target["expr"].as_str().unwrap();
            let query = query.replace("$__rate_interval", RATE_INTERVAL).replace("$job", "rollcall");
            let legend = target["legendFormat"].as_str().unwrap().split("{{").skip(1);
            queries.push(Query {
                panel: panel["title"].as_str().unwrap().to_owned(),
                text: query,
                legend: legend.map(|label| label.split("}}").next().unwrap().to_owned()).collect(),
            });
        }
    }
    queries
}

/// The metric families in a text.
fn families(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let ours = words.filter(|word| ["rollcall_", "process_", "tokio_"].iter().any(|prefix| word.starts_with(prefix)));
    ours.map(str::to_owned).collect()
}

#[test]
fn promtool_accepts_the_rules_and_each_fault_raises_its_alert() {
    for (what, file) in
        [("check config", "prometheus.yml"), ("check rules", "alerts.yml"), ("test rules", "alerts_test.yml")]
    {
        let (well, said) = run(prometheus("promtool").args(what.split(' ')).arg(monitoring(file)));
        assert!(well, "{what} {file}: {said}");
    }
    // An alert without a test may never fire.
    let (alerts, tests) = (read("alerts.yml"), read("alerts_test.yml"));
    let named = |line: &str| line.trim().strip_prefix("- alert: ").map(str::to_owned);
    let names: Vec<String> = alerts.lines().filter_map(named).collect();
    assert!(names.len() > 10, "{names:?}");
    let runbook = repository().join("docs/OPERATIONS.md");
    let runbook = fs::read_to_string(runbook).unwrap();
    for name in names {
        assert!(tests.contains(&format!("alertname: {name}\n")), "no promtool test raises {name}");
        assert!(runbook.contains(&format!("### {name}\n")), "{name} has no section in docs/OPERATIONS.md");
        let anchor = format!("runbook: docs/OPERATIONS.md#{}\n", name.to_lowercase());
        assert!(alerts.contains(&anchor), "the runbook URL of {name} does not lead to its section");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_has_a_result_and_a_healthy_cluster_no_alert() {
    let redis = RedisServer::start_aged().await;
    let mut nodes = Vec::new();
    for number in 1..=4 {
        nodes.push(ServeCommand::named(&format!("node-{number}")).redis(&redis).with(&["--threads", "1"]).launch());
    }
    for node in &nodes {
        until("ready", || async { node.get("/readyz").await.status() == 200 }).await;
        until("the node knows the other nodes", || async { node.samples().await.get("rollcall_members") == Some(4.0) })
            .await;
    }
    let prometheus = Prometheus::start(&nodes).await;
    let mut clients = Vec::new();
    for (number, node) in nodes.iter().enumerate() {
        for seat in 0..5 {
            clients.push(Client::connect(node.public, &format!("user-{number}-{seat}"), &["Maths"]).await.unwrap());
        }
    }
    let stop = CancellationToken::new();
    let load = stop.run_until_cancelled(async {
        loop {
            for node in &nodes {
                assert_eq!(node.ask("/Maths/users").await.status(), 200);
                assert!(Client::with(node.public, "room=Maths", "").await.is_err());
                Client::connect(node.public, "passer-by", &["Physics"]).await.unwrap().drop_connection();
            }
            sleep(Duration::from_millis(20)).await;
        }
    });
    let look = async {
        for Query { panel, text, legend } in dashboard() {
            until(&format!("{panel}: {text}"), || async {
                // A quantile without observations is NaN.
                prometheus.query(&text).await.iter().any(|number| number.is_finite())
            })
            .await;
            let series = prometheus.series(&text).await;
            let named = |sample: &Value| legend.iter().all(|label| sample["metric"].get(label).is_some());
            assert!(series.iter().all(named), "{panel}: a legend names a label that the series lacks: {series:?}");
        }
        for (query, expected) in [
            ("sum(rollcall_sockets) >= 20", 1),
            ("sum(rate(rollcall_roll_calls_total{outcome=\"complete\"}[3s])) > 1", 1),
            ("sum by (peer) (rate(rollcall_peer_lookups_total{outcome=\"answered\"}[3s])) > 0", 4),
            ("histogram_quantile(0.5, sum by (le) (rate(rollcall_roll_call_users_bucket[3s]))) > 10", 1),
        ] {
            until(query, || async { prometheus.query(query).await.len() == expected }).await;
        }
        // An alert on a metric without series never fires.
        for name in families(&read("alerts.yml")) {
            assert!(!prometheus.query(&name).await.is_empty(), "an alert uses {name}, which no node exports");
        }
        let rules = prometheus.get("/api/v1/rules", &[]).await;
        let rules = rules["groups"][0]["rules"].as_array().unwrap().clone();
        assert!(!rules.is_empty(), "prometheus has no rules");
        assert!(rules.iter().all(|rule| rule["health"] == "ok"), "{rules:?}");
        let raised: Vec<_> = rules.iter().filter(|rule| rule["state"] == "firing").collect();
        assert!(raised.is_empty(), "{raised:?}");
        stop.cancel();
    };
    tokio::join!(load, look);
    drop(clients);
}
