//! Trust between real processes: the closed mesh, https, and Redis with TLS and a login.
//!
//! `pki` makes certificates of every kind, `process` runs the binary and keeps what it logs.

mod certs;
mod https;
mod mesh;
mod outsiders;
mod redis_access;
mod redis_master;
mod rotation;
mod secrets;
