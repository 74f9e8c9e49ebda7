// What the caller decides about a loop map. `LoopConfig` carries the part of it that the map's processes need.
public import ImageChain
public import MapRegistry
public import SystemPackage

/// How to make a loop device of an image.
public struct LoopMapOptions: Sendable {
    /// Path of the image; a relative one counts from the current folder.
    public var image: FilePath
    /// How to open it. A `format` of nil is probed. `blockSize` is the logical block size of the device, too, in bytes.
    public var open: OpenOptions
    /// Name of the map; nil: that of the file, with a number where a map of another file has it.
    public var name: String?
    /// The device takes no writes.
    public var readOnly = true
    /// Threads that carry requests. Two are faster than one at every queue depth; more are slower.
    public var workers = 2
    /// The calling process supervises the map, until SIGTERM or SIGINT.
    public var foreground = false
    /// A raw image may be mapped by a loop device without FUSE, where that is possible.
    public var allowPlain = true
    /// Called with a sentence for each thing that the user should know although the map is made: protection that the
    /// system did not grant, what was lost of maps that were cleaned up.
    public var notice: @Sendable (String) -> Void = { _ in }
    /// Where maps are recorded.
    public var registry = MapRegistry()
    /// The program that has the hidden verbs.
    public var executable: FilePath = "/proc/self/exe"

    /// A read-only map of `image`, with two workers, in the background.
    public init(image: FilePath, open: OpenOptions = OpenOptions()) {
        self.image = image
        self.open = open
    }
}
