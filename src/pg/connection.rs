//! A pooled connection that prepares each statement once.
//!
//! Without this every statement costs a second round trip, in which PostgreSQL parses and plans it
//! anew. Statements live as long as their connection; a broken one takes them with it.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::Mutex;

use bb8::ManageConnection;
use bb8_postgres::PostgresConnectionManager;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Row, Statement, Transaction};

use super::PgFault;

/// A connection and what it has prepared.
pub struct Connection {
    client: Client,
    statements: Statements,
}

/// A transaction that uses what its connection has prepared. Dropped without `commit`, it has never
/// happened.
pub struct Tx<'a> {
    tx: Transaction<'a>,
    statements: &'a Statements,
}

/// Makes [`Connection`]s for the pool.
pub struct Manager(PostgresConnectionManager<NoTls>);

/// By text. Statements are texts of this program, so their number is bounded by it.
#[derive(Default)]
struct Statements(Mutex<HashMap<&'static str, Statement>>);

type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

// === impl Connection ===

impl Connection {
    /// Begins a transaction (read committed, the guards are in the statements).
    pub async fn begin(&mut self) -> Result<Tx<'_>, PgFault> {
        Ok(Tx { tx: self.client.transaction().await?, statements: &self.statements })
    }

    pub async fn rows(&self, sql: &'static str, params: Params<'_>) -> Result<Vec<Row>, PgFault> {
        let statement = match self.statements.get(sql) {
            Some(statement) => statement,
            None => self.statements.put(sql, self.client.prepare(sql).await?),
        };
        Ok(self.client.query(&statement, params).await?)
    }

    pub async fn row(&self, sql: &'static str, params: Params<'_>) -> Result<Option<Row>, PgFault> {
        one(self.rows(sql, params).await?)
    }
}

impl Deref for Connection {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

// === impl Tx ===

impl<'a> Tx<'a> {
    pub async fn rows(&self, sql: &'static str, params: Params<'_>) -> Result<Vec<Row>, PgFault> {
        Ok(self.tx.query(&self.statement(sql).await?, params).await?)
    }

    /// The one row, or none.
    pub async fn row(&self, sql: &'static str, params: Params<'_>) -> Result<Option<Row>, PgFault> {
        one(self.rows(sql, params).await?)
    }

    /// How many rows changed.
    pub async fn change(&self, sql: &'static str, params: Params<'_>) -> Result<u64, PgFault> {
        Ok(self.tx.execute(&self.statement(sql).await?, params).await?)
    }

    /// Prepares what is about to be sent together, so that each statement is sent when its future is first
    /// polled, and PostgreSQL takes them in that order.
    pub async fn prepare_all(&self, statements: &[&'static str]) -> Result<(), PgFault> {
        for sql in statements {
            self.statement(sql).await?;
        }
        Ok(())
    }

    pub async fn commit(self) -> Result<(), PgFault> {
        Ok(self.tx.commit().await?)
    }

    async fn statement(&self, sql: &'static str) -> Result<Statement, PgFault> {
        match self.statements.get(sql) {
            Some(statement) => Ok(statement),
            None => Ok(self.statements.put(sql, self.tx.prepare(sql).await?)),
        }
    }
}

/// For statements that are used too seldom to be kept.
impl<'a> Deref for Tx<'a> {
    type Target = Transaction<'a>;

    fn deref(&self) -> &Transaction<'a> {
        &self.tx
    }
}

fn one(rows: Vec<Row>) -> Result<Option<Row>, PgFault> {
    if rows.len() > 1 {
        return Err(PgFault::fault("a statement of one row gave several"));
    }
    Ok(rows.into_iter().next())
}

// === impl Statements ===

impl Statements {
    fn get(&self, sql: &'static str) -> Option<Statement> {
        self.0.lock().expect("nothing panics while it is held").get(sql).cloned()
    }

    fn put(&self, sql: &'static str, statement: Statement) -> Statement {
        self.0.lock().expect("nothing panics while it is held").insert(sql, statement.clone());
        statement
    }
}

// === impl Manager ===

impl Manager {
    pub fn new(config: tokio_postgres::Config) -> Self {
        Manager(PostgresConnectionManager::new(config, NoTls))
    }
}

impl ManageConnection for Manager {
    type Connection = Connection;
    type Error = tokio_postgres::Error;

    async fn connect(&self) -> Result<Connection, tokio_postgres::Error> {
        Ok(Connection { client: self.0.connect().await?, statements: Statements::default() })
    }

    async fn is_valid(&self, connection: &mut Connection) -> Result<(), tokio_postgres::Error> {
        self.0.is_valid(&mut connection.client).await
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        self.0.has_broken(&mut connection.client)
    }
}
