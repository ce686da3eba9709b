//! The listening socket and every connection behind it, as far as closing them goes.
//!
//! The watchdog closes the door from a thread of its own while the runtime stands still, so nothing here waits, and the locks
//! are never held across anything that does.

use std::{
    collections::HashMap,
    io,
    net::{Shutdown, SocketAddr, TcpListener as StdListener},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use socket2::{SockRef, Socket};
use tokio::net::{TcpListener, TcpStream};

use crate::line::send_fin;

/// Connections that wait to be accepted. The kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 1024;

/// What can be closed from outside the runtime.
#[derive(Debug, Default)]
pub(crate) struct Door {
    /// A second handle on the listening socket.
    listening: Mutex<Option<Socket>>,
    connections: Mutex<Connections>,
}

#[derive(Debug, Default)]
struct Connections {
    next: u64,
    open: HashMap<u64, Arc<TcpStream>>,
}

/// A connection's entry, removed when it drops.
#[derive(Debug)]
pub(crate) struct Entry {
    door: Arc<Door>,
    number: u64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Door {
    /// Takes note of the socket that is listened on.
    pub(crate) fn listens(&self, listener: &TcpListener) -> io::Result<()> {
        let handle = SockRef::from(listener).try_clone()?;
        *locked(&self.listening) = Some(handle);
        Ok(())
    }

    /// Enters a connection; `None` when there are `most` already.
    pub(crate) fn enter(self: &Arc<Self>, tcp: &Arc<TcpStream>, most: usize) -> Option<Entry> {
        let mut connections = locked(&self.connections);
        if connections.open.len() >= most {
            return None;
        }
        let number = connections.next;
        connections.next += 1;
        connections.open.insert(number, tcp.clone());
        Some(Entry { door: self.clone(), number })
    }

    /// Refuses new connections and ends the open ones by FIN. Their tasks find out when they run again.
    pub(crate) fn shut(&self) {
        if let Some(listening) = &*locked(&self.listening) {
            // On Linux this takes the socket out of the listening state: whoever connects is refused at once.
            let _ = listening.shutdown(Shutdown::Both);
        }
        for tcp in locked(&self.connections).open.values() {
            send_fin(tcp);
        }
    }

    /// Stops listening for good, once the listener itself is gone too.
    pub(crate) fn close(&self) {
        drop(locked(&self.listening).take());
    }

    /// Listens again on `address` after [`Door::shut`].
    ///
    /// The same socket is tried first: it may hold a port that this process could not bind a second time. A port that the
    /// system had chosen is given back when the socket is shut, and is bound anew. `shut` is `None` when that was tried before.
    pub(crate) fn reopen(&self, shut: Option<TcpListener>, address: SocketAddr) -> io::Result<TcpListener> {
        let same = shut.and_then(|shut| {
            // Registered anew with the runtime, which otherwise keeps the hang-up in mind.
            let again = shut.into_std().ok()?;
            SockRef::from(&again).listen(BACKLOG).ok()?;
            (again.local_addr().ok()? == address).then_some(again)
        });
        let listener = match same {
            Some(again) => again,
            None => {
                drop(locked(&self.listening).take());
                let fresh = StdListener::bind(address)?;
                fresh.set_nonblocking(true)?;
                fresh
            }
        };
        let listener = TcpListener::from_std(listener)?;
        self.listens(&listener)?;
        Ok(listener)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        locked(&self.door.connections).open.remove(&self.number);
    }
}
