use super::*;

fn packing(height: u32, width: u32, tiles: [u32; 2]) -> Packing {
    Packing::new(Size::new(height, width), Size::new(tiles[0], tiles[1]), Size::new(2, 2)).unwrap()
}

#[test]
fn the_whole_comes_first_and_every_line_is_broken() {
    // Two tiles side by side of two by two patches, all of them shown.
    let packing = packing(10, 20, [1, 2]);
    assert_eq!((packing.from, packing.kept), ([0, 0], Size::new(2, 4)));
    assert_eq!(packing.index(), [0, 1, 2, 3, 4, 5, 8, 9, 12, 6, 7, 10, 11, 12]);
    assert_eq!(packing.index().len(), packing.len());
}

#[test]
fn padding_is_left_out_on_both_sides() {
    // Wide: of four rows of patches, the image fills two.
    let wide = packing(10, 20, [2, 2]);
    assert_eq!((wide.from, wide.kept), ([1, 0], Size::new(2, 4)));
    assert_eq!(wide.index()[4..], [6, 7, 10, 11, 20, 12, 13, 16, 17, 20]);
    // Tall, and all but a line is padding: what is left is the whole and line breaks.
    let tall = packing(1000, 1, [2, 2]);
    assert_eq!((tall.from, tall.kept), ([0, 2], Size::new(4, 0)));
    assert_eq!(tall.index(), [0, 1, 2, 3, 20, 20, 20, 20]);
    assert_eq!(tall.index().len(), tall.len());
}

#[test]
fn grids_show_as_much_as_they_can() {
    let grids = [[28, 56], [56, 28], [56, 56]].map(|[height, width]| Size::new(height, width));
    let best = |height, width| best_grid(Size::new(height, width), &grids).unwrap().to_string();
    assert_eq!(best(45, 60), "56x56");
    assert_eq!(best(10, 20), "28x56");
    assert_eq!(best(40, 10), "56x28");
    // Everything is shown by each: the first of those that waste least.
    assert_eq!(best(5, 5), "28x56");
    assert_eq!(best_grid(Size::square(3), &[]), None);
}

#[test]
fn large_images_get_larger_grids_of_the_same_shape() {
    let tile = Size::square(10);
    let nearest = |height, width, most| nearest_grid(Size::new(height, width), tile, 1, most).to_string();
    assert_eq!(nearest(10, 10, 12), "1x1");
    assert_eq!(nearest(30, 30, 12), "3x3");
    assert_eq!(nearest(10, 40, 12), "1x4");
    assert_eq!(nearest(10, 400, 12), "1x12");
    assert_eq!(nearest(10, 400, 0), "1x1");
}

#[test]
fn sizes_at_the_edge_do_not_overflow() {
    let most = Size::square(u32::MAX);
    assert_eq!(Packing::new(Size::square(1), most, most), None);
    assert_eq!(fitted(Size::new(u32::MAX, 1), Size::square(7)), Size::new(7, 1));
}
