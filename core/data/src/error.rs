//! The one error type of this crate. Variants carry the facts (path, what was expected, what was found), so that a caller can
//! act on them and a message never has to be taken apart.

use std::path::{Path, PathBuf};

use dtta_base::TargetType;

use crate::{Corruption, IGNORE, LeftOut};

/// What can go wrong while data is opened, decoded, transformed or cut into a stream.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file could not be read or written, or is not the document that it should be.
    #[error(transparent)]
    File(#[from] dtta_base::Error),
    /// A folder of idx files lacks one of them.
    #[error(
        "`{folder}` holds neither `{name}` nor `{name}.gz`; install Debian's `dataset-fashion-mnist` or set `path` to a folder with the four idx files",
        folder = folder.display()
    )]
    MissingIdx {
        /// The folder that was searched.
        folder: PathBuf,
        /// The file's name without `.gz`.
        name: String,
    },
    /// An idx file does not start with the magic number of unsigned bytes with the expected number of axes.
    #[error("`{path}` is not an idx file of unsigned bytes with {expected_axes} axes: it starts with {actual:02x?}", path = path.display())]
    IdxHeader {
        /// The file.
        path: PathBuf,
        /// 3 for images, 1 for labels.
        expected_axes: u8,
        /// The first bytes of the file (at most 4).
        actual: Vec<u8>,
    },
    /// An idx file is shorter or longer than its header says.
    #[error("`{path}` should hold {expected} bytes after its header, but {actual}", path = path.display(), actual = Length { expected: *expected, actual: *actual })]
    IdxLength {
        /// The file.
        path: PathBuf,
        /// Bytes that the header announces.
        expected: u64,
        /// Bytes that were found; reading stops one byte after the expected length.
        actual: u64,
    },
    /// There is not one label for each image.
    #[error("`{path}` has {labels} labels for {images} images", path = path.display())]
    LabelCount {
        /// The file with the labels.
        path: PathBuf,
        /// Number of images.
        images: usize,
        /// Number of labels.
        labels: usize,
    },
    /// A label names no class.
    #[error("sample `{id}` in `{path}` has label {label}, but there are {classes} class names (labels start at 0)", path = path.display())]
    LabelOutOfRange {
        /// The file with the labels, or the dataset's folder.
        path: PathBuf,
        /// The sample.
        id: String,
        /// Its label.
        label: i64,
        /// Number of classes.
        classes: usize,
    },
    /// Two samples share an id, so they would share their noise.
    #[error("`{path}` has two samples with the id `{id}`; ids must differ, since noise is keyed by them", path = path.display())]
    DuplicateId {
        /// The dataset.
        path: PathBuf,
        /// The id.
        id: String,
    },
    /// An image file could not be decoded.
    #[error("cannot decode the image `{path}`", path = path.display())]
    Decode {
        /// The image.
        path: PathBuf,
        /// What the decoder said.
        source: image::ImageError,
    },
    /// A JPEG lacks its end, so that a part of it would be made up.
    #[error("the JPEG `{path}` ends before its end marker: it was cut off", path = path.display())]
    CutOff {
        /// The image.
        path: PathBuf,
    },
    /// A file would take more memory than any sample should.
    #[error("`{path}` stands for {found} {what}, of which at most {limit} are read", path = path.display())]
    DecodedSize {
        /// The file.
        path: PathBuf,
        /// What is counted, such as `pixels`.
        what: &'static str,
        /// How many there would be.
        found: u64,
        /// How many there may be.
        limit: u64,
    },
    /// A file stands for another one that Git LFS has not fetched.
    #[error("`{path}` is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`", path = path.display())]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// A folder holds no image: torchvision refuses a class without any, too.
    #[error("`{path}` holds no image of a type that is read (PNG, JPEG, WebP, BMP, TIFF, GIF, PGM, PPM){but}", path = path.display(), but = But(left_out))]
    NoImages {
        /// The folder.
        path: PathBuf,
        /// What it holds instead.
        left_out: LeftOut,
    },
    /// A folder or file holds nothing that can be read.
    #[error("`{path}` is empty: expected {expected}", path = path.display())]
    Empty {
        /// The folder or file.
        path: PathBuf,
        /// What should be there.
        expected: &'static str,
    },
    /// A label map names no class.
    #[error("label map `{target}` of `{path}`{of} has label {label}, but there are {classes} class names (labels start at 0); give `ignore_index` if it means no class", path = path.display(), of = Of(id))]
    MapLabel {
        /// The target.
        target: String,
        /// The map's file, or the dataset's.
        path: PathBuf,
        /// The sample, where the file holds many.
        id: Option<String>,
        /// The label.
        label: u8,
        /// Number of classes.
        classes: usize,
    },
    /// A map does not cover its image.
    #[error("target `{target}` of sample `{id}` in `{path}` is {found:?}, its image {image:?} (height, width)", path = path.display())]
    MapExtents {
        /// The sample.
        id: String,
        /// The dataset.
        path: PathBuf,
        /// Which map.
        target: String,
        /// Its extents.
        found: [usize; 2],
        /// Those of the image.
        image: [usize; 2],
    },
    /// More classes than a label map tells apart from pixels without a class.
    #[error(
        "label map `{target}`: there are {classes} class names, but a label is a byte and {ignore} stands for no class; at most {ignore} are possible",
        ignore = IGNORE
    )]
    MapClasses {
        /// The target.
        target: String,
        /// Number of classes.
        classes: usize,
    },
    /// Two files would share a partner.
    #[error("`{first}` and `{second}` differ only in their extensions, so they cannot be told apart by {by}", first = first.display(), second = second.display())]
    SharedPartner {
        /// One file.
        first: PathBuf,
        /// The other one.
        second: PathBuf,
        /// What belongs to them, or to which they belong.
        by: String,
    },
    /// A pattern of names says not what partners have in common.
    #[error(
        "`names` is `{pattern}`, expected the name of a file without its extension, with one `*` for what an image and its maps have in common"
    )]
    Names {
        /// The pattern.
        pattern: String,
    },
    /// An image has no map.
    #[error("`{image}` has no partner `{path}`", image = image.display(), path = path.display())]
    NoPartner {
        /// The image.
        image: PathBuf,
        /// The file that was looked for.
        path: PathBuf,
    },
    /// A label map without class names.
    #[error("label map `{target}` needs `classes`, a JSON file with the list of class names")]
    NoClasses {
        /// The target.
        target: String,
    },
    /// Numbers that cannot be told from a file's.
    #[error(
        "target `{target}`: numbers are what the file holds * {scale} + {offset}; expected two finite numbers, the first above 0"
    )]
    Scale {
        /// The target.
        target: String,
        /// What 1 in the file stands for.
        scale: f32,
        /// What is added.
        offset: f32,
    },
    /// A number map with too few or too many channels.
    #[error("target `{target}` has {channels} channels, expected {expected}")]
    MapChannels {
        /// The target.
        target: String,
        /// Its channels.
        channels: usize,
        /// How many there can be.
        expected: &'static str,
    },
    /// A channel that changes its sign in a mirror, but is not there.
    #[error(
        "target `{target}`: `negated_by_flip` names channel {channel} (the first is 0), but there are {channels}"
    )]
    FlippedChannel {
        /// The target.
        target: String,
        /// The channel that was named.
        channel: usize,
        /// How many there are.
        channels: usize,
    },
    /// Two samples of a dataset have targets of one name and different types.
    #[error("target `{target}` of sample `{id}` is a {actual}, the first sample's a {expected}")]
    TargetType {
        /// The target.
        target: String,
        /// The sample.
        id: String,
        /// The first sample's type.
        expected: TargetType,
        /// This sample's type.
        actual: TargetType,
    },
    /// A map is not a PNG file.
    #[error("cannot decode `{path}`", path = path.display())]
    Png {
        /// The file.
        path: PathBuf,
        /// What the decoder said.
        source: png::DecodingError,
    },
    /// A map has the wrong kind of pixels.
    #[error("`{path}` is {found}, expected {expected} of at most {bits} bits", path = path.display())]
    MapFormat {
        /// The file.
        path: PathBuf,
        /// Colour type and bits.
        found: String,
        /// Which colour types can be.
        expected: &'static str,
        /// The most bits that can be.
        bits: u8,
    },
    /// A packed sample is not a safetensors file.
    #[error("`{path}` is not a whole safetensors file", path = path.display())]
    Container {
        /// The file.
        path: PathBuf,
        /// What the safetensors reader or writer said.
        source: safetensors::SafeTensorError,
    },
    /// A tensor of a packed sample is missing or has another shape or type.
    #[error("tensor `{name}` of `{path}`: expected {expected}, found {actual}", path = path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Type and shape that were expected.
        expected: String,
        /// Type and shape that were found.
        actual: String,
    },
    /// The metadata of a packed sample is missing.
    #[error("`{path}` lacks the metadata entry `{key}` that makes a safetensors file a packed sample; write it with `dtta data pack`", path = path.display())]
    MetadataMissing {
        /// The file.
        path: PathBuf,
        /// The entry's key.
        key: &'static str,
    },
    /// The metadata of a packed sample is not the expected JSON.
    #[error("the metadata of `{path}` is not as expected", path = path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// What the JSON reader said.
        source: serde_json::Error,
    },
    /// The metadata of a packed sample is of another format version.
    #[error("`{path}` has format `{actual}`, this version reads {expected}", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The formats that this version reads.
        expected: &'static str,
        /// The file's format.
        actual: String,
    },
    /// The number of values does not fit the shape, or an axis is empty.
    #[error(
        "an image of {channels}x{height}x{width} (channels, height, width; none may be 0) does not hold {values} values"
    )]
    ImageShape {
        /// Channels.
        channels: usize,
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
        /// Number of values given.
        values: usize,
    },
    /// A transform asks for an image with an empty axis or with more than 2^28 values.
    #[error(
        "cannot make an image of {channels}x{height}x{width} (channels, height, width): each must be at least 1 and the product at most {limit}"
    )]
    ImageSize {
        /// Channels.
        channels: usize,
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
        /// The largest number of values.
        limit: usize,
    },
    /// Samples that must share one shape do not.
    #[error(
        "sample `{id}` has shape {actual:?} (channels, height, width), the first one has {expected:?}"
    )]
    MixedShapes {
        /// The sample.
        id: String,
        /// The first sample's shape.
        expected: [usize; 3],
        /// This sample's shape.
        actual: [usize; 3],
    },
    /// A crop is larger than its image.
    #[error(
        "cannot crop {crop_height}x{crop_width} from an image of {height}x{width} (height, width); resize or pad it first"
    )]
    CropTooLarge {
        /// Rows of the crop.
        crop_height: usize,
        /// Columns of the crop.
        crop_width: usize,
        /// Rows of the image.
        height: usize,
        /// Columns of the image.
        width: usize,
    },
    /// A transform cannot take an image with this number of channels.
    #[error("transform `{transform}` expects {expected} channels, the image has {actual}")]
    Channels {
        /// The transform's name in a configuration.
        transform: &'static str,
        /// The channels it takes, in words or as a number.
        expected: String,
        /// The image's channels.
        actual: usize,
    },
    /// `normalise` would divide by zero or by something that is not a number.
    #[error("transform `normalise`: every `std` must be above 0, channel {channel} has {std}")]
    NormaliseStd {
        /// The channel.
        channel: usize,
        /// Its standard deviation.
        std: f32,
    },
    /// A dataset's transforms take pixels out of [0, 1], where corruptions are defined.
    #[error(
        "transform {index} of the dataset would take pixels out of [0, 1], where corruptions are defined; normalise in the model's preprocessing instead"
    )]
    DatasetRange {
        /// Position in the list of transforms, from 0.
        index: usize,
    },
    /// A severity is not one of 1 to 5.
    #[error("severity {actual} is not one of 1, 2, 3, 4, 5")]
    Severity {
        /// The number given.
        actual: u8,
    },
    /// A concentration of a Dirichlet distribution is not a finite number above 0.
    #[error("concentration {actual} is not a finite number above 0")]
    Concentration {
        /// The number given.
        actual: f64,
    },
    /// Frost without its pictures.
    #[error(
        "`frost` needs ImageNet-C's pictures of frost, which are not shipped; give their folder as `frost`: `imagecorruptions/frost` of the Python package `imagecorruptions`"
    )]
    FrostFolder,
    /// A folder without one of ImageNet-C's pictures of frost.
    #[error("`{path}` is missing; `frost` needs the pictures `frost1.png` to `frost5.jpg` of ImageNet-C, as the Python package `imagecorruptions` has them in `imagecorruptions/frost`", path = path.display())]
    FrostPicture {
        /// The picture.
        path: PathBuf,
    },
    /// Pictures of frost for a corruption that uses none.
    #[error("`frost` is for the corruption `frost`; `{corruption}` uses no pictures")]
    NoFrost {
        /// The corruption.
        corruption: Corruption,
    },
    /// A folder that corrupted images cannot be written to.
    #[error("`{path}` {reason}; give another folder", path = path.display())]
    OutputFolder {
        /// The folder.
        path: PathBuf,
        /// What it holds.
        reason: String,
    },
    /// A NumPy array that a dataset cannot be read from.
    #[error("`{path}` is not an array that can be read: {reason}", path = path.display())]
    Npy {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of records is not a whole number of them.
    #[error("`{path}` has {bytes} bytes, which is not a number of records of {each} bytes each", path = path.display())]
    Records {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: usize,
        /// That of a record.
        each: usize,
    },
    /// Corrupted images are those for testing.
    #[error("`{path}` holds corrupted test images; there are none for training, so give `split` as `test`", path = path.display())]
    NoTraining {
        /// The file.
        path: PathBuf,
    },
    /// Class folders that are called by numbers, whose order as text is another.
    #[error("the class folders of `{path}` are numbers, and `{first}` comes before `{second}` as text; say by `class_order` whether labels are `numeric` or `alphabetical`, as torchvision's `ImageFolder` has them", path = path.display())]
    ClassOrder {
        /// The folder.
        path: PathBuf,
        /// A folder in it.
        first: String,
        /// The next one as text, with a smaller number.
        second: String,
    },
    /// A class folder whose name is no number, where numbers are asked for.
    #[error("`class_order` is `numeric`, but `{path}` has the class folder `{name}`", path = path.display())]
    ClassNumber {
        /// The folder.
        path: PathBuf,
        /// The folder in it.
        name: String,
    },
    /// A range or position lies outside of the dataset or stream.
    #[error("samples {start}..{end} were asked for, but there are {available}")]
    OutOfRange {
        /// First sample.
        start: usize,
        /// One after the last sample.
        end: usize,
        /// Samples that there are.
        available: usize,
    },
    /// A stratified selection of a dataset without labels.
    #[error("`{path}` has no labels, so `stratified` cannot balance its classes", path = path.display())]
    Unlabelled {
        /// The dataset.
        path: PathBuf,
    },
    /// A stratified selection of more samples than a class can give its part of.
    #[error(
        "`{path}` has {held} samples of class `{class}`, but {needed} are needed for as many of each class as of any other; at most {most} samples can be taken so",
        path = path.display()
    )]
    Unbalanced {
        /// The dataset.
        path: PathBuf,
        /// The class with the fewest samples.
        class: String,
        /// Its samples.
        held: usize,
        /// Its part of the selection, with what `offset` leaves out.
        needed: usize,
        /// The largest selection that would be balanced.
        most: usize,
    },
    /// A stream without domains.
    #[error("`domains` is empty; give at least `{{ \"kind\": \"clean\" }}`")]
    NoDomains,
    /// A domain without a dataset.
    #[error("domain `{domain}` names no `dataset`, and neither does the stream")]
    NoDataset {
        /// The domain.
        domain: String,
    },
    /// Two datasets of a stream differ in class names or targets, so that one model cannot be scored on both.
    #[error(
        "the dataset of domain `{domain}` has {what} {actual}, that of `{first}` has {expected}; they must be the same"
    )]
    Disagreement {
        /// The domain.
        domain: String,
        /// The first domain.
        first: String,
        /// What differs.
        what: &'static str,
        /// What the first domain's dataset has.
        expected: String,
        /// What this domain's dataset has.
        actual: String,
    },
    /// Two domains of a stream have one name.
    #[error("two domains are called `{name}`; give one of them another `name`")]
    DuplicateDomain {
        /// The name.
        name: String,
    },
}

impl DataError {
    /// The file or folder that it is about, if it is about one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(error) => error.path(),
            Self::MissingIdx { folder, .. } => Some(folder),
            Self::SharedPartner { first, .. } => Some(first),
            Self::IdxHeader { path, .. }
            | Self::IdxLength { path, .. }
            | Self::LabelCount { path, .. }
            | Self::LabelOutOfRange { path, .. }
            | Self::DuplicateId { path, .. }
            | Self::Decode { path, .. }
            | Self::CutOff { path }
            | Self::DecodedSize { path, .. }
            | Self::LfsPointer { path, .. }
            | Self::NoImages { path, .. }
            | Self::Empty { path, .. }
            | Self::MapLabel { path, .. }
            | Self::MapExtents { path, .. }
            | Self::NoPartner { path, .. }
            | Self::Png { path, .. }
            | Self::MapFormat { path, .. }
            | Self::Container { path, .. }
            | Self::Tensor { path, .. }
            | Self::MetadataMissing { path, .. }
            | Self::Metadata { path, .. }
            | Self::Format { path, .. }
            | Self::FrostPicture { path, .. }
            | Self::OutputFolder { path, .. }
            | Self::Npy { path, .. }
            | Self::Records { path, .. }
            | Self::NoTraining { path, .. }
            | Self::ClassOrder { path, .. }
            | Self::ClassNumber { path, .. }
            | Self::Unlabelled { path, .. }
            | Self::Unbalanced { path, .. } => Some(path),
            _ => None,
        }
    }
}

/// That a file or folder could not be read.
pub(crate) fn unreadable(path: &Path) -> impl Fn(std::io::Error) -> DataError {
    move |source| {
        DataError::File(dtta_base::Error::Read {
            path: path.to_owned(),
            source,
        })
    }
}

/// Refuses a file that stands for more of something than can be asked of a machine, before it is decoded.
pub(crate) fn bounded(
    path: &Path,
    what: &'static str,
    found: u64,
    limit: u64,
) -> Result<(), DataError> {
    if found <= limit {
        return Ok(());
    }
    Err(DataError::DecodedSize {
        path: path.to_owned(),
        what,
        found,
        limit,
    })
}

/// Refuses a file that only says where its content is.
pub(crate) fn fetched(path: &Path, bytes: &[u8]) -> Result<(), DataError> {
    match bytes.starts_with(b"version https://git-lfs") {
        true => Err(DataError::LfsPointer { path: path.into() }),
        false => Ok(()),
    }
}

/// Says what was left out, if anything was.
struct But<'a>(&'a LeftOut);

impl std::fmt::Display for But<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.is_empty() {
            true => Ok(()),
            false => write!(formatter, "; it holds {}", self.0),
        }
    }
}

/// Names a sample, if there is one to name.
struct Of<'a>(&'a Option<String>);

impl std::fmt::Display for Of<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(id) => write!(formatter, " of sample `{id}`"),
            None => Ok(()),
        }
    }
}

/// Says "ends after N bytes" or "goes on".
struct Length {
    expected: u64,
    actual: u64,
}

impl std::fmt::Display for Length {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.actual < self.expected {
            write!(formatter, "ends after {}", self.actual)
        } else {
            write!(formatter, "goes on after them")
        }
    }
}
