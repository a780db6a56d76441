//! Who is connected to a shard: found by place, because that is done for each message and client.

use std::rc::Rc;

use crate::connection::Connection;
use crate::index::ConnId;

/// A shard's connections.
#[derive(Default)]
pub(crate) struct Roster {
    places: Vec<Option<Rc<Connection>>>,
    /// Places that nobody has.
    free: Vec<u32>,
    /// How many connections there ever were.
    turn: u32,
}

impl Roster {
    /// A place, and an id that nobody else has had there.
    pub(crate) fn next_id(&mut self) -> ConnId {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX)
        });
        self.turn = self.turn.wrapping_add(1);
        ConnId::new(place, self.turn)
    }

    /// Puts a connection where its id says.
    pub(crate) fn insert(&mut self, connection: Rc<Connection>) {
        if let Some(place) = self.places.get_mut(connection.id.place()) {
            *place = Some(connection);
        }
    }

    /// Forgets a connection, if it is there.
    pub(crate) fn remove(&mut self, id: ConnId) {
        if self.get(id).is_some()
            && let Some(place) = self.places.get_mut(id.place())
        {
            *place = None;
            self.free.extend(u32::try_from(id.place()));
        }
    }

    pub(crate) fn get(&self, id: ConnId) -> Option<&Rc<Connection>> {
        let connection = self.places.get(id.place())?.as_ref();
        connection.filter(|connection| connection.id == id)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Rc<Connection>> {
        self.places.iter().flatten()
    }
}
