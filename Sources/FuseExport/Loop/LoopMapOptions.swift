// Everything the caller decides about a loop map, in one value that also travels to the processes that carry it out.
public import ImageChain
public import MapRegistry
public import SystemPackage

/// How to make a loop device of an image.
public struct LoopMapOptions: Sendable {
    /// Path of the image; relative ones are taken from here.
    public var image: FilePath
    /// How to open it. `format` nil probes. `blockSize` is the logical block size of the device, too.
    public var open: OpenOptions
    /// Name of the map; nil: the file's name.
    public var name: String?
    /// No writes.
    public var readOnly = true
    /// Threads that carry requests. Two are faster than one at every depth; more get in each other's way.
    public var workers = 2
    /// Stay in the foreground: the calling process supervises until SIGTERM or SIGINT.
    public var foreground = false
    /// Take the plain loop device for raw images where it is possible.
    public var allowPlain = true
    /// Is told, in one line each time, what does not make the map fail and should be known: protection that the system
    /// did not grant, what was lost of maps that were cleaned up.
    public var notice: @Sendable (String) -> Void = { _ in }
    /// Where maps are written down.
    public var registry = MapRegistry()
    /// The program that the hidden verbs are verbs of.
    public var executable: FilePath = "/proc/self/exe"

    public init(image: FilePath, open: OpenOptions = OpenOptions()) {
        self.image = image
        self.open = open
    }
}
