//! Accounts: amounts in integer cents, and bookings that are accessible through their account only.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use self::{AccountCommand as Command, AccountError as Error, AccountEvent as Event};
use crate::{BusinessRule, EventSourced, Key, Root};

/// An account. Its balance is the sum of its bookings that were not reverted, and is never negative.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Account {
    balance: i64,
    bookings: BTreeMap<Key, Booking>,
}

/// An entity inside the account, without a lifecycle or a path of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Booking {
    amount: i64,
    text: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    reverted: bool,
}

/// The largest amount and the largest balance, in cents: JavaScript cannot represent larger integers exactly
/// ([RFC 8259, section 6](https://www.rfc-editor.org/rfc/rfc8259#section-6)).
const MAX_CENTS: i64 = (1 << 53) - 1;

/// The commands of an account. Amounts are in cents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are self-explanatory")]
pub enum AccountCommand {
    Open,
    Book { amount: i64, text: String },
    RevertBooking { booking: Key },
}

/// The events of an account. Amounts are in cents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are self-explanatory")]
pub enum AccountEvent {
    AccountOpened,
    AmountBooked { booking: Key, amount: i64, text: String },
    BookingReverted { booking: Key },
}

/// The business rules of an account.
#[derive(Debug, Clone, PartialEq, Serialize, Error)]
#[expect(missing_docs, reason = "the messages are self-explanatory")]
pub enum AccountError {
    #[error("account {account} has {balance} cents; a booking of {amount} would leave it below zero")]
    InsufficientFunds { account: Key, balance: i64, amount: i64 },
    #[error("account {account} has no booking {booking}")]
    BookingNotFound { account: Key, booking: Key },
    #[error("booking {booking} of account {account} has already been reverted")]
    AlreadyReverted { account: Key, booking: Key },
    #[error("account {account} has already been opened")]
    AccountAlreadyOpen { account: Key },
    #[error("amount: {amount} is too large; expected an amount and a balance of at most {MAX_CENTS} cents")]
    AmountTooLarge { amount: i64 },
}

impl BusinessRule for AccountError {
    fn status(&self) -> u16 {
        if matches!(self, Self::AmountTooLarge { .. }) { 422 } else { 409 }
    }
}

/// The commands. Each one results in one event or violates a rule.
impl Account {
    fn book(&self, root: &Root<'_, Self>, amount: i64, text: String) -> Result<Event, Error> {
        self.check_balance(root, amount)?;
        Ok(Event::AmountBooked { booking: root.new_id(), amount, text })
    }

    fn revert(&self, root: &Root<'_, Self>, booking: Key) -> Result<Event, Error> {
        let account = root.key().clone();
        match self.bookings.get(&booking) {
            None => Err(Error::BookingNotFound { account, booking }),
            Some(Booking { reverted: true, .. }) => Err(Error::AlreadyReverted { account, booking }),
            Some(Booking { amount, .. }) => {
                self.check_balance(root, -amount)?;
                Ok(Event::BookingReverted { booking })
            }
        }
    }

    fn check_balance(&self, root: &Root<'_, Self>, amount: i64) -> Result<(), Error> {
        if !(-MAX_CENTS..=MAX_CENTS).contains(&amount) || self.balance + amount > MAX_CENTS {
            return Err(Error::AmountTooLarge { amount });
        }
        if self.balance + amount < 0 {
            return Err(Error::InsufficientFunds { account: root.key().clone(), balance: self.balance, amount });
        }
        Ok(())
    }
}

impl EventSourced for Account {
    const NAME: &'static str = "accounts";

    type Command = Command;
    type Event = Event;
    type Error = Error;

    fn handle(root: &mut Root<'_, Self>, command: Command) -> Result<(), Error> {
        let event = match (root.state(), command) {
            (None, _) => Event::AccountOpened,
            (Some(_), Command::Open) => return Err(Error::AccountAlreadyOpen { account: root.key().clone() }),
            (Some(account), Command::Book { amount, text }) => account.book(root, amount, text)?,
            (Some(account), Command::RevertBooking { booking }) => account.revert(root, booking)?,
        };
        root.record(event);
        Ok(())
    }

    fn apply(state: Option<Self>, event: &Event) -> Option<Self> {
        let mut account = state.unwrap_or_default();
        match event {
            Event::AccountOpened => {}
            Event::AmountBooked { booking, amount, text } => {
                account.balance += amount;
                let entry = Booking { amount: *amount, text: text.clone(), reverted: false };
                account.bookings.insert(booking.clone(), entry);
            }
            Event::BookingReverted { booking } => {
                if let Some(entry) = account.bookings.get_mut(booking) {
                    account.balance -= entry.amount;
                    entry.reverted = true;
                }
            }
        }
        Some(account)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::AccountCommand::{Book, Open, RevertBooking};
    use super::AccountError::{
        AccountAlreadyOpen, AlreadyReverted, AmountTooLarge, BookingNotFound, InsufficientFunds,
    };
    use super::AccountEvent::{AccountOpened, AmountBooked, BookingReverted};
    use super::*;
    use crate::testing::{KEY, given, key};

    fn book(amount: i64) -> Command {
        Book { amount, text: "rent".to_owned() }
    }

    fn booked(booking: &str, amount: i64) -> Event {
        AmountBooked { booking: key(booking), amount, text: "rent".to_owned() }
    }

    fn revert(booking: &str) -> Command {
        RevertBooking { booking: key(booking) }
    }

    #[test]
    fn bookings_add_up_to_the_balance() {
        given::<Account>([])
            .when(Open)
            .then([AccountOpened])
            .then_state(json!({"balance":0,"bookings":{}}))
            .when(book(700))
            .then([booked("1", 700)])
            .then_patch(json!({"balance":700,"bookings":{"1":{"amount":700,"text":"rent"}}}))
            .when(book(-500))
            .then_patch(json!({"balance":200,"bookings":{"2":{"amount":-500,"text":"rent"}}}));
    }

    #[test]
    fn a_balance_is_never_negative() {
        given::<Account>([AccountOpened, booked("a", 500)])
            .when(book(-501))
            .then_fails(InsufficientFunds { account: key(KEY), balance: 500, amount: -501 })
            .when(book(-500))
            .then_patch(json!({"balance":0,"bookings":{"3":{"amount":-500,"text":"rent"}}}))
            .when(revert("a"))
            .then_fails(InsufficientFunds { account: key(KEY), balance: 0, amount: -500 });
    }

    #[test]
    fn a_booking_is_reverted_once() {
        given::<Account>([AccountOpened, booked("a", 500), booked("b", -200)])
            .when(revert("b"))
            .then([BookingReverted { booking: key("b") }])
            .then_patch(json!({"balance":500,"bookings":{"b":{"reverted":true}}}))
            .when(revert("b"))
            .then_fails(AlreadyReverted { account: key(KEY), booking: key("b") })
            .when(revert("c"))
            .then_fails(BookingNotFound { account: key(KEY), booking: key("c") });
    }

    #[test]
    fn an_amount_that_is_too_large_is_rejected() {
        for amount in [i64::MAX, i64::MIN, MAX_CENTS + 1, -MAX_CENTS - 1, MAX_CENTS] {
            given::<Account>([AccountOpened, booked("a", 1)]).when(book(amount)).then_fails(AmountTooLarge { amount });
        }
    }

    #[test]
    fn an_account_is_opened_once_and_bookings_require_an_open_account() {
        given::<Account>([AccountOpened]).when(Open).then_fails(AccountAlreadyOpen { account: key(KEY) });
        given::<Account>([]).when(book(1)).then_not_found();
    }
}
