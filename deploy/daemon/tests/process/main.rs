//! The plumbing from outside: sockets, signals and logins.

mod nats;
mod ops;
mod signals;
