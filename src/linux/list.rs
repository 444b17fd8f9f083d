// SPDX-License-Identifier: GPL-2.0-only

//! What the kernel crate's list lacks, or spells differently from one kernel to another.

pub(crate) use kernel::list::{
    impl_list_arc_safe,
    impl_list_item,
    List,
    ListArc,
    ListItem,
    ListLinks, //
};

/// Takes the first item that matches off the list.
pub(crate) fn remove_first<T: ListItem<0>>(
    list: &mut List<T>,
    matches: impl Fn(&T) -> bool,
) -> Option<ListArc<T>> {
    let mut cursor = list.cursor_front();
    while let Some(item) = cursor.peek_next() {
        if matches(&item) {
            return Some(item.remove());
        }
        cursor.move_next();
    }
    None
}
