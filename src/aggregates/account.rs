//! Accounts: amounts in integer cents, and bookings that are accessible through their account only.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use self::{AccountCommand as Command, AccountError as Error, AccountEvent as Event};
use crate::{BusinessRule, EventSourced, Key, Root};

/// An account. Its balance is what was carried over from the last period, and the bookings of the open period that were not
/// reverted. It is never negative.
///
/// A period ends with a command, say once a month. Its bookings then leave the state, so that an account that is used for
/// years stays small, and a booking stays fast. The journal has all of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Account {
    balance: i64,
    /// The balance at the end of the last period, if there is any. Earlier events result in the same state as before there
    /// were periods, so that `STATE_VERSION` is still 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    carried_over: Option<i64>,
    bookings: BTreeMap<Key, Booking>,
}

/// An entity inside the account, without a lifecycle or a path of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the names are self-explanatory")]
pub enum AccountCommand {
    Open,
    Book {
        #[schemars(example = 1250)]
        amount: i64,
        #[schemars(example = &"lunch")]
        text: String,
    },
    RevertBooking {
        booking: Key,
    },
    ClosePeriod,
}

/// The events of an account. Amounts are in cents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the names are self-explanatory")]
pub enum AccountEvent {
    AccountOpened,
    AmountBooked { booking: Key, amount: i64, text: String },
    BookingReverted { booking: Key },
    PeriodClosed { balance: i64 },
}

/// The business rules of an account.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema, Error)]
#[expect(missing_docs, reason = "the messages are self-explanatory")]
pub enum AccountError {
    #[error("account {account} has {balance} cents; a booking of {amount} would leave it below zero")]
    InsufficientFunds { account: Key, balance: i64, amount: i64 },
    #[error("account {account} has no booking {booking} in the open period")]
    BookingNotFound { account: Key, booking: Key },
    #[error("booking {booking} of account {account} has already been reverted")]
    AlreadyReverted { account: Key, booking: Key },
    #[error("account {account} has no bookings in the open period")]
    PeriodEmpty { account: Key },
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

    fn close_period(&self, root: &Root<'_, Self>) -> Result<Event, Error> {
        if self.bookings.is_empty() {
            return Err(Error::PeriodEmpty { account: root.key().clone() });
        }
        Ok(Event::PeriodClosed { balance: self.balance })
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
    const REMEDY: &'static str =
        "close the period first (POST close-period): its bookings leave the state, and stay in the journal";

    type Command = Command;
    type Event = Event;
    type Error = Error;

    fn handle(root: &mut Root<'_, Self>, command: Command) -> Result<(), Error> {
        let event = match (root.state(), command) {
            (None, _) => Event::AccountOpened,
            (Some(_), Command::Open) => return Err(Error::AccountAlreadyOpen { account: root.key().clone() }),
            (Some(account), Command::Book { amount, text }) => account.book(root, amount, text)?,
            (Some(account), Command::RevertBooking { booking }) => account.revert(root, booking)?,
            (Some(account), Command::ClosePeriod) => account.close_period(root)?,
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
            Event::PeriodClosed { balance } => {
                account.carried_over = Some(*balance);
                account.bookings.clear();
            }
        }
        Some(account)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::AccountCommand::{Book, ClosePeriod, Open, RevertBooking};
    use super::AccountError::{
        AccountAlreadyOpen, AlreadyReverted, AmountTooLarge, BookingNotFound, InsufficientFunds, PeriodEmpty,
    };
    use super::AccountEvent::{AccountOpened, AmountBooked, BookingReverted, PeriodClosed};
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
    fn the_bookings_of_a_closed_period_leave_the_state_and_the_balance_stays() {
        given::<Account>([AccountOpened, booked("a", 500), booked("b", -200), BookingReverted { booking: key("b") }])
            .when(ClosePeriod)
            .then([PeriodClosed { balance: 500 }])
            .then_patch(json!({"carried_over":500,"bookings":{"a":null,"b":null}}))
            .then_state(json!({"balance":500,"carried_over":500,"bookings":{}}))
            .when(book(-501))
            .then_fails(InsufficientFunds { account: key(KEY), balance: 500, amount: -501 })
            .when(book(-100))
            .then_patch(json!({"balance":400,"bookings":{"5":{"amount":-100,"text":"rent"}}}))
            .when(ClosePeriod)
            .then_state(json!({"balance":400,"carried_over":400,"bookings":{}}));
    }

    #[test]
    fn a_booking_of_a_closed_period_is_not_reverted() {
        given::<Account>([AccountOpened, booked("a", 500), PeriodClosed { balance: 500 }])
            .when(revert("a"))
            .then_fails(BookingNotFound { account: key(KEY), booking: key("a") })
            .then_says(&format!("account {KEY} has no booking a in the open period"));
    }

    #[test]
    fn a_period_without_bookings_is_not_closed() {
        given::<Account>([AccountOpened])
            .when(ClosePeriod)
            .then_fails(PeriodEmpty { account: key(KEY) })
            .when(book(1))
            .when(ClosePeriod)
            .when(ClosePeriod)
            .then_fails(PeriodEmpty { account: key(KEY) });
        given::<Account>([]).when(ClosePeriod).then_not_found();
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
