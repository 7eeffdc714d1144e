//! `preprocessor_config.json`, for the classes that are known.
//!
//! Defaults are those of the class. A flag that is null is off in a class that takes values as they are, and the default in
//! its `Fast` twin, which fills them in.

use std::path::Path;

use super::super::fields::Fields;
use super::super::resize::Filter;
use super::super::{Size, VisionError};
use super::{Cut, ImageProcessor, Resize, Steps};

const FILE: &str = "preprocessor_config.json";

const CLIP_MEAN: [f64; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const CLIP_DEVIATION: [f64; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];

/// Most tiles of an image: published models have forty at most.
const MAX_TILES: u32 = 1024;

/// A class of transformers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Clip,
    Llava,
    Siglip,
    LlavaNext,
    GotOcr2,
}

const CLASSES: &[(&str, Class)] = &[
    ("CLIPImageProcessor", Class::Clip),
    ("CLIPFeatureExtractor", Class::Clip),
    ("LlavaImageProcessor", Class::Llava),
    ("SiglipImageProcessor", Class::Siglip),
    ("LlavaNextImageProcessor", Class::LlavaNext),
    ("GotOcr2ImageProcessor", Class::GotOcr2),
];

pub(super) fn open(dir: &Path) -> Result<ImageProcessor, VisionError> {
    let fields = match Fields::open(&dir.join(FILE))? {
        Some(fields) => fields,
        // Where transformers 5 keeps it.
        None => match Fields::open(&dir.join("processor_config.json"))? {
            Some(all) => all.within("image_processor")?,
            None => None,
        }
        .ok_or_else(|| VisionError::NoConfig { dir: dir.to_owned(), file: FILE })?,
    };
    let named = match fields.text("image_processor_type")? {
        None => fields.text("feature_extractor_type")?,
        named => named,
    };
    let name = named.unwrap_or_default();
    let slow = name.strip_suffix("Fast");
    let Some((_, class)) = CLASSES.iter().find(|(known, _)| *known == slow.unwrap_or(&name)) else {
        let known: Vec<_> = CLASSES.iter().map(|(known, _)| *known).collect();
        let found = if name.is_empty() { "nothing".to_owned() } else { name };
        return Err(fields.wrong("image_processor_type", format!("one of {}", known.join(", ")), found));
    };
    Reader { fields: &fields, class: *class, fast: slow.is_some() }.read()
}

struct Reader<'a> {
    fields: &'a Fields,
    class: Class,
    fast: bool,
}

impl Reader<'_> {
    fn read(&self) -> Result<ImageProcessor, VisionError> {
        let class = self.class;
        let cropped = class != Class::Siglip && class != Class::GotOcr2;
        let crop = if cropped { self.crop()? } else { None };
        let filter = self.filter()?;
        let resize = if self.flag("do_resize", true)? { Some((self.size()?, filter)) } else { None };
        let rescale = match self.flag("do_rescale", true)? {
            true => Some(self.fields.number("rescale_factor")?.unwrap_or(1.0 / 255.0)),
            false => None,
        };
        let steps = Steps { resize, crop, rescale, normalise: self.normalise()? };
        Ok(ImageProcessor { cut: self.cut(filter)?, steps })
    }

    fn cut(&self, filter: Filter) -> Result<Cut, VisionError> {
        let fields = self.fields;
        match self.class {
            Class::Clip | Class::Siglip => Ok(Cut::Whole),
            Class::Llava => Ok(match self.flag("do_pad", false)? {
                false => Cut::Whole,
                true => Cut::Square(self.mean()?.map(|mean| (mean * 255.0) as u8)),
            }),
            Class::LlavaNext => {
                let default = || [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]].to_vec();
                let pairs = fields.pairs("image_grid_pinpoints")?.unwrap_or_else(default);
                let grids: Vec<Size> = pairs.into_iter().map(|[height, width]| Size::new(height, width)).collect();
                let tile = self.crop_size()?.height;
                let fits = |grid: &Size| {
                    let tiles = u64::from(grid.height / tile) * u64::from(grid.width / tile);
                    grid.height.is_multiple_of(tile) && grid.width.is_multiple_of(tile) && tiles <= u64::from(MAX_TILES)
                };
                if let Some(odd) = grids.iter().find(|grid| !fits(grid)) {
                    let expected = format!("multiples of the tile, {tile}, and at most {MAX_TILES} tiles");
                    return Err(fields.wrong("image_grid_pinpoints", expected, odd));
                }
                if grids.is_empty() {
                    return Err(fields.wrong("image_grid_pinpoints", "at least one pair", "none"));
                }
                let whole = match self.size()? {
                    Resize::ShortestEdge(edge) => edge,
                    Resize::To(size) => size.height.min(size.width),
                };
                Ok(Cut::AnyResolution { grids, whole, tile, filter })
            }
            Class::GotOcr2 => {
                // InternVL's processor turns `crop_to_patches` on, whatever the file says.
                let count = |key, default| Ok::<_, VisionError>(fields.count(key)?.unwrap_or(default));
                let (fewest, most) = (count("min_patches", 1)?, count("max_patches", 12)?);
                if most > MAX_TILES {
                    return Err(fields.wrong("max_patches", format!("at most {MAX_TILES}"), most));
                }
                let Resize::To(tile) = self.size()? else {
                    return Err(fields.wrong("size", "`height` and `width`", "a shortest edge"));
                };
                Ok(if most > 1 { Cut::NearestShape { fewest, most, tile } } else { Cut::Whole })
            }
        }
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, VisionError> {
        let null = self.fields.is_null(key) && !self.fast;
        Ok(self.fields.flag(key)?.unwrap_or(default && !null))
    }

    fn filter(&self) -> Result<Filter, VisionError> {
        let expected = "1 (Lanczos), 2 (bilinear), 3 (bicubic), 4 (box) or 5 (Hamming)";
        let read = |value: &serde_json::Value| value.as_u64().and_then(Filter::from_number);
        Ok(self.fields.typed("resample", expected, read)?.unwrap_or(Filter::Bicubic))
    }

    fn size(&self) -> Result<Resize, VisionError> {
        let default = match self.class {
            Class::Clip | Class::Llava | Class::LlavaNext => Resize::ShortestEdge(224),
            Class::Siglip => Resize::To(Size::square(224)),
            Class::GotOcr2 => Resize::To(Size::square(384)),
        };
        let Some(value) = self.fields.get("size") else { return Ok(default) };
        // Old files state one number.
        if !value.is_object() {
            let edge = self.fields.size("size")?.unwrap_or(1);
            return Ok(match default {
                Resize::ShortestEdge(_) => Resize::ShortestEdge(edge),
                Resize::To(_) => Resize::To(Size::square(edge)),
            });
        }
        let size = self.fields.within("size")?;
        let field = |key| size.as_ref().map_or(Ok(None), |size| size.size(key));
        match (field("shortest_edge")?, field("height")?, field("width")?) {
            // A field of old files, and of this class only.
            (Some(edge), _, _) if self.class == Class::Clip && self.flag("use_square_size", false)? => {
                Ok(Resize::To(Size::square(edge)))
            }
            (Some(edge), _, _) if self.class != Class::Siglip => Ok(Resize::ShortestEdge(edge)),
            (_, Some(height), Some(width)) => Ok(Resize::To(Size::new(height, width))),
            _ => {
                Err(self.fields.wrong("size", "`height` and `width`, or `shortest_edge` where the class has it", value))
            }
        }
    }

    fn crop(&self) -> Result<Option<Size>, VisionError> {
        Ok(if self.flag("do_center_crop", true)? { Some(self.crop_size()?) } else { None })
    }

    fn crop_size(&self) -> Result<Size, VisionError> {
        let Some(value) = self.fields.get("crop_size") else { return Ok(Size::square(224)) };
        if !value.is_object() {
            return Ok(Size::square(self.fields.size("crop_size")?.unwrap_or(1)));
        }
        let size = self.fields.within("crop_size")?;
        let field = |key| size.as_ref().map_or(Ok(None), |size| size.size(key));
        match (field("height")?, field("width")?) {
            (Some(height), Some(width)) => Ok(Size::new(height, width)),
            _ => Err(self.fields.wrong("crop_size", "`height` and `width`", value)),
        }
    }

    fn mean(&self) -> Result<[f64; 3], VisionError> {
        let default = if self.class == Class::Siglip { [0.5; 3] } else { CLIP_MEAN };
        Ok(self.fields.three("image_mean")?.unwrap_or(default))
    }

    fn normalise(&self) -> Result<Option<[[f32; 3]; 2]>, VisionError> {
        if !self.flag("do_normalize", true)? {
            return Ok(None);
        }
        let default = if self.class == Class::Siglip { [0.5; 3] } else { CLIP_DEVIATION };
        let deviation = self.fields.three("image_std")?.unwrap_or(default);
        if deviation.iter().any(|&part| part as f32 == 0.0) {
            return Err(self.fields.wrong("image_std", "numbers other than 0", "0"));
        }
        Ok(Some([self.mean()?, deviation].map(|three| three.map(|number| number as f32))))
    }
}
