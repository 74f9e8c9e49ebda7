// Everything the caller decides about a device-mapper map, in one value.

public import ImageChain
public import MapRegistry
public import SystemPackage

/// How to make a device-mapper device of an image.
public struct DMMapOptions: Sendable {
    /// Path of the image.
    public var image: FilePath
    /// How to open it. `format` nil probes.
    public var open: OpenOptions
    /// Name of the map and of the device; nil: the file's name.
    public var name: String?
    /// No writes. (Writable maps are refused so far: they need a slow path for what the kernel cannot do.)
    public var readOnly = true
    /// Where maps are written down.
    public var registry = MapRegistry()

    /// The image at `image`, opened so; the rest as it stands above.
    public init(image: FilePath, open: OpenOptions = OpenOptions()) {
        self.image = image
        self.open = open
    }
}
