//! The process edge: arguments, logging, signals, exit code.

#![warn(clippy::unwrap_used)]

use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rollcall::commands::args::{Audit, Certs, Cli, Command, Dev, Log, OnOff, Serve};
use rollcall::commands::audit;
use rollcall::commands::certs;
use rollcall::commands::dev;
use rollcall::commands::health;
use rollcall::commands::log;
use rollcall::commands::operator;
use rollcall::directory::Directory;
use rollcall::directory::memory::Memory;
use rollcall::directory::redis::Redis;
use rollcall::edge::connections::{file_limit, listen, raise_file_limit};
use rollcall::edge::socketio::SocketIoConfig;
use rollcall::names::NodeName;
use rollcall::node::{Config, Listeners, Node};
use rollcall::reconciler;
use rollcall::telemetry::logging;
use rollcall::telemetry::logging::Logging;
use rollcall::telemetry::traces::export::Traces;
use tikv_jemallocator::Jemalloc;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

/// The system's allocator keeps nearly all of what a crowd needed, for ever; `.cargo/config.toml` configures this one.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// A command line that cannot be run, as usual.
const USAGE: u8 = 2;
/// What could not be done.
const FAILED: u8 = 1;
/// An audit that could not be made.
const TROUBLE: u8 = 2;
/// Ended by a second signal, as shells count it for SIGINT.
const INTERRUPTED: i32 = 130;
/// How much of the drain the last spans may take…
const FLUSH_SHARE: f64 = 0.1;
/// …and never more than this.
const FLUSH_MOST: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(stop) if stop.failed => {
            eprint!("{}", stop.text);
            return ExitCode::from(USAGE);
        }
        Err(stop) => {
            print!("{}", stop.text);
            return ExitCode::SUCCESS;
        }
    };
    let logging = cli.logging();
    match cli.command {
        // What asks a node, or prints what is known here.
        Command::Health(health) => tell(health::ask(health.admin.as_str(), health.question())),
        Command::Log(log) => tell(levels(log)),
        Command::Status(status) => ask(operator::status(&status)),
        Command::Users(users) => ask(operator::users(&users)),
        Command::Config(config) => print(config.show(raise_file_limit()).map(String::into_bytes)),
        Command::Completions(completions) => print(Ok(completions.make())),
        Command::Man(manual) => print(manual.make()),
        // What works, and logs.
        Command::Serve(serve) => {
            run(logging, serve.threads, FAILED, |logging, shutdown| run_serve(*serve, logging, shutdown))
        }
        Command::Dev(dev) => run(logging, None, FAILED, |logging, shutdown| {
            begin(logging, None);
            run_dev(*dev, shutdown)
        }),
        Command::Audit(audit) => run(logging, None, TROUBLE, |logging, shutdown| {
            begin(logging, None);
            run_audit(*audit, shutdown)
        }),
        Command::Certs(certs) => run(logging, None, FAILED, |logging, _| {
            begin(logging, None);
            async move { make_certificates(&certs) }
        }),
    }
}

/// Says what a node logs, after it was changed where that is asked.
async fn levels(log: Log) -> Result<String, String> {
    let client = log.asked.client().map_err(|error| format!("{error:#}"))?;
    log::ask(&client, log.change.as_deref()).await
}

/// What came of asking a node, in one line and by the exit code.
fn tell(asking: impl Future<Output = Result<String, String>>) -> ExitCode {
    ask(async {
        match asking.await {
            Ok(answer) => {
                println!("{answer}");
                ExitCode::SUCCESS
            }
            Err(why) => {
                eprintln!("rollcall: {why}");
                ExitCode::FAILURE
            }
        }
    })
}

/// Asks a node what an operator wants to know.
fn ask(asking: impl Future<Output = ExitCode>) -> ExitCode {
    match runtime(Some(1)) {
        Ok(runtime) => {
            let code = runtime.block_on(asking);
            // A name that is still being looked up is not waited for.
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            eprintln!("rollcall: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints what was asked for. Whoever has read enough may close the pipe.
fn print(text: anyhow::Result<Vec<u8>>) -> ExitCode {
    let printed = text.and_then(|text| {
        let mut out = std::io::stdout().lock();
        match out.write_all(&text).and_then(|()| out.flush()) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(()),
        }
    });
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rollcall: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Does what is done until it ends or a signal comes. `failed`: the exit code where it cannot be done.
fn run<W: Future<Output = anyhow::Result<ExitCode>>>(
    logging: Result<Logging, logging::Error>,
    threads: Option<u16>,
    failed: u8,
    work: impl FnOnce(Logging, CancellationToken) -> W,
) -> ExitCode {
    let logging = match logging {
        Ok(logging) => logging,
        Err(error) => {
            eprintln!("rollcall: --log: {error}");
            return ExitCode::from(USAGE);
        }
    };
    let worked = runtime(threads).map_err(anyhow::Error::from).and_then(|runtime| {
        runtime.block_on(async {
            let shutdown = CancellationToken::new();
            tokio::spawn(watch_signals(shutdown.clone()));
            work(logging, shutdown).await
        })
    });
    worked.unwrap_or_else(|error| {
        // Before the log has begun there is nobody else to tell.
        if tracing::dispatcher::has_been_set() {
            error!("{error:#}");
        } else {
            eprintln!("rollcall: {error:#}");
        }
        ExitCode::from(failed)
    })
}

/// Logs from now on, and exports spans where there are `traces`.
fn begin(logging: Logging, traces: Option<&Traces>) {
    logging.begin(traces.map(Traces::tracer));
    raise_file_limit();
}

fn runtime(threads: Option<u16>) -> std::io::Result<Runtime> {
    let mut builder = match threads {
        // Nobody to hand work to: none of the wake-ups that cost most of a roll call's time where cores are few.
        Some(1) => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    if let Some(threads) = threads {
        builder.worker_threads(usize::from(threads));
    }
    builder.enable_all().build()
}

async fn run_dev(dev: Dev, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    let clients = SocketIoConfig { transports: dev.transports, ..SocketIoConfig::default() };
    let cluster =
        dev::Cluster { nodes: usize::from(dev.nodes), listen: dev.listen, tls: dev.tls == OnOff::On, clients };
    let memory = Memory::new();
    if let Some(redis) = dev.redis.open()? {
        check(&redis).await?;
    }
    // Each node has a connection of its own.
    let directory = || {
        Ok(match dev.redis.open()? {
            Some(redis) => Arc::new(redis) as Arc<dyn Directory>,
            None => Arc::clone(&memory) as Arc<dyn Directory>,
        })
    };
    dev::run(cluster, directory, |introduction| println!("{introduction}"), shutdown).await?;
    Ok(ExitCode::SUCCESS)
}

async fn run_serve(serve: Serve, logging: Logging, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    let bind = |address| listen(address, false).with_context(|| format!("cannot listen on {address}"));
    let public = bind(serve.listen.address)?;
    let mesh_listener = bind(serve.mesh_listen.address)?;
    let admin = bind(serve.admin_listen.address)?;
    let mesh = mesh_listener.local_addr()?;
    let name = serve.node_name.unwrap_or_else(|| {
        let host = gethostname::gethostname();
        NodeName::from_any(&format!("{}-{}", host.to_string_lossy(), mesh.port()))
    });
    // Spans say which node they are of, and what a node is called may depend on where it listens.
    let traces = serve.traces.open(&name)?;
    begin(logging, traces.as_ref());
    let access = serve.access.open()?;
    let admin_tokens = serve.admin.open()?;
    let redis = serve.redis.open()?;
    let mesh_advertise = match serve.mesh_advertise {
        Some(advertised) => {
            let redis = redis.as_ref().map_or_else(Vec::new, Redis::addresses);
            advertised.resolve(mesh, &redis).await?
        }
        None => mesh.to_string(),
    };
    let (tls, mesh_security) = (serve.trust.https()?, serve.trust.mesh.open(Some(&mesh_advertise))?);
    let admin_address = admin.local_addr()?;
    info!(%name, listen = %public.local_addr()?, %mesh, advertise = mesh_advertise, admin = %admin_address, "starting");
    let directory: Arc<dyn Directory> = match redis {
        Some(redis) => {
            check(&redis).await?;
            Arc::new(redis)
        }
        None => {
            info!("no --redis: this node is a cluster of one");
            Memory::new()
        }
    };
    let limits = serve.limits.limits(file_limit());
    let config = Config {
        name,
        mesh_advertise,
        lease: serve.lease,
        deadline: serve.deadline,
        drain: serve.drain,
        cache: serve.cache.as_u64(),
        clients: SocketIoConfig {
            transports: serve.transports,
            rooms: serve.rooms_per_socket as usize,
            ping_interval: serve.ping_interval,
            ping_timeout: serve.ping_timeout,
        },
        access,
        release_delay: reconciler::RELEASE_DELAY,
        limits,
        cors_origins: serve.cors_origins,
        tls,
        mesh_security,
        admin_tokens,
    };
    let listeners = Listeners { public, mesh: mesh_listener, admin: Some(admin) };
    let drain = config.drain;
    let running = Node::new(config, listeners, directory).run(shutdown);
    let Some(traces) = traces else { return running.await.map(|()| ExitCode::SUCCESS) };
    let mut headers = JoinSet::new();
    headers.spawn(traces.keep());
    let ended = running.await;
    traces.close(drain.mul_f64(FLUSH_SHARE).min(FLUSH_MOST)).await;
    ended.map(|()| ExitCode::SUCCESS)
}

fn make_certificates(certs: &Certs) -> anyhow::Result<ExitCode> {
    let order = certs::Order { out: &certs.out, names: &certs.names, days: certs.days, force: certs.force };
    print!("{}", certs::make(&order)?);
    Ok(ExitCode::SUCCESS)
}

async fn run_audit(audit: Audit, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    let redis = audit.redis.open()?.context("--redis is missing")?;
    let security = audit.mesh.open(None)?;
    check(&redis).await?;
    let report = tokio::select! {
        report = audit::run(&redis, &security, audit.pause) => report,
        () = redis.maintain() => bail!("the connection to redis is not kept any more"),
        () = shutdown.cancelled() => return Ok(ExitCode::from(TROUBLE)),
    };
    let report = report.with_context(|| format!("the redis at {} cannot be read", redis.address()))?;
    if audit.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{report}");
    }
    Ok(match (report.differences.is_empty(), report.complete) {
        (true, true) => ExitCode::SUCCESS,
        (true, false) => ExitCode::from(TROUBLE),
        (false, _) => ExitCode::FAILURE,
    })
}

/// Refuses a Redis that must be mended. One that does not answer is waited for.
async fn check(redis: &Redis) -> anyhow::Result<()> {
    redis.check().await.with_context(|| format!("the redis at {} is not used", redis.address()))
}

/// The first signal stops cleanly, the second at once.
async fn watch_signals(shutdown: CancellationToken) {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        error!("signals cannot be watched, stop this process by killing it");
        return;
    };
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if shutdown.is_cancelled() {
            std::process::exit(INTERRUPTED);
        }
        shutdown.cancel();
    }
}
