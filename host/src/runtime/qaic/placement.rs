//! Which cards a program goes to, when nobody says, and whether those that somebody names can take it.
//!
//! Cards are what the driver counts: a board with four chips is four of them. A program for several is put on chips of one
//! board if it can be, since they exchange data faster.

use super::error::QaicError;
use super::ffi::Library;

/// A card with what is free of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Free {
    /// Its number.
    pub card: i32,
    /// Serial number of its board; empty if not known.
    pub board: String,
    /// Cores that no program has.
    pub cores: u64,
}

/// Cards for a program that takes `cores` cores of each of `count` cards; `None` if there are not so many.
///
/// Among boards that have enough, the one with the fewest that fit is taken, so that larger programs find room later;
/// among its cards, those with the lowest numbers.
pub fn place(free: &[Free], count: usize, cores: u64) -> Option<Vec<i32>> {
    let mut fit: Vec<&Free> = free.iter().filter(|card| card.cores >= cores).collect();
    fit.sort_by_key(|card| card.card);
    let mates = |of: &Free| fit.iter().filter(|card| !of.board.is_empty() && card.board == of.board).count().max(1);
    let board = fit.iter().filter(|card| mates(card) >= count).min_by_key(|card| (mates(card), card.card)).copied();
    let on_board = |card: &&&Free| match board {
        Some(board) if count > 1 || !board.board.is_empty() => card.board == board.board,
        Some(board) => card.card == board.card,
        None => true,
    };
    let chosen: Vec<i32> = fit.iter().filter(on_board).take(count).map(|card| card.card).collect();
    (chosen.len() == count && count > 0).then_some(chosen)
}

/// Refuses cards that are not there, not ready, or have not enough cores left. What the library does not say is not checked.
///
/// # Errors
/// With the card and what is wrong with it.
pub(super) fn check(library: &Library, cards: &[i32], cores: u32) -> Result<(), QaicError> {
    if cards.is_empty() {
        return Err(QaicError::Unfit("no card is given; name one with --device-group".into()));
    }
    for (i, card) in cards.iter().enumerate() {
        if cards[..i].contains(card) {
            return Err(QaicError::Unfit(format!("card {card} is named twice; each slice of a program needs its own")));
        }
    }
    for &card in cards {
        let unready = match library.card_status(card) {
            None | Some(Ok(1)) => None,
            Some(Ok(0)) => Some("is still starting; try again in a minute".to_owned()),
            Some(Ok(_)) => Some("is in error; `qaic-util -q` says more, and a reset may help".to_owned()),
            Some(Err(status)) => Some(format!("is not here ({status}); `qeff-host devices` lists the cards")),
        };
        if let Some(why) = unready {
            return Err(QaicError::NotReady { card, why });
        }
        if let Some(resources) = library.resources(card).filter(|resources| u32::from(resources.nsp_free) < cores) {
            let (free, total) = (resources.nsp_free, resources.nsp_total);
            return Err(QaicError::NotReady {
                card,
                why: if u32::from(total) < cores {
                    format!("has {total} cores, and the program takes {cores}; compile with --num-cores {total}")
                } else {
                    format!(
                        "has {free} of {total} cores free, and the program takes {cores}; end the program that has the \
                         others, take another card, or compile with --num-cores {free}"
                    )
                },
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(card: i32, board: &str, cores: u64) -> Free {
        Free { card, board: board.into(), cores }
    }

    #[test]
    fn one_board_is_preferred_and_the_fullest_that_fits() {
        let cards = [
            card(0, "a", 16),
            card(1, "a", 16),
            card(2, "a", 16),
            card(3, "a", 16),
            card(4, "b", 16),
            card(5, "b", 16),
        ];
        assert_eq!(place(&cards, 1, 16), Some(vec![4]), "the smaller board");
        assert_eq!(place(&cards, 2, 16), Some(vec![4, 5]));
        assert_eq!(place(&cards, 4, 16), Some(vec![0, 1, 2, 3]));
        assert_eq!(place(&cards, 6, 16), Some(vec![0, 1, 2, 3, 4, 5]), "no board has six");
        assert_eq!(place(&cards, 7, 16), None);
        assert_eq!(place(&cards, 1, 17), None);
    }

    #[test]
    fn busy_cards_are_left_alone() {
        let cards = [card(0, "", 2), card(1, "", 16), card(2, "", 8)];
        assert_eq!(place(&cards, 1, 8), Some(vec![1]));
        assert_eq!(place(&cards, 2, 8), Some(vec![1, 2]));
        assert_eq!(place(&cards, 2, 16), None);
        assert_eq!(place(&[], 1, 1), None);
    }
}
