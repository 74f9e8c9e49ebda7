// Options that several commands have, declared once so that they mean the same everywhere.

public import ArgumentParser
import DiskTypes
public import ImageChain
import ImageOperations
import SystemPackage
import LinuxIO

/// How to open an image.
struct ImageOptions: ParsableArguments {
    @Option(
        name: [.short, .long],
        help: ArgumentHelp(
            "Format of the image: qcow2 or raw. Without it the file's signature says: for writing only that of a file named *.qcow2.",
            valueName: "format"))
    var format: ImageFormat?

    @Option(
        name: .long,
        help: ArgumentHelp(
            "Folder, besides the image's own, where backing and data files may lie. Repeatable.", valueName: "folder"))
    var allowPath: [FilePath] = []

    @Flag(name: .short, help: "Say more on standard error. Repeatable.")
    var verbose: Int

    /// How to open the image, by these options.
    var open: OpenOptions {
        var options = OpenOptions()
        options.format = format
        options.allowedFolders = allowPath
        return options
    }
}

/// Options of qemu-img that this program does not have: each is an error that says what to use instead.
struct ForeignOptions: ParsableArguments {
    @Flag(name: .customLong("image-opts"), help: .hidden)
    var imageOptions = false

    @Flag(name: .customLong("target-image-opts"), help: .hidden)
    var targetImageOptions = false

    @Option(name: .customLong("object"), help: .hidden)
    var objects: [String] = []

    func validate() throws {
        if imageOptions || targetImageOptions {
            throw ValidationError("images are named by their files, not by options: leave --image-opts out and say -f")
        }
        if !objects.isEmpty {
            throw ValidationError("there are no objects: --object is for secrets, and encrypted images are not read")
        }
    }
}

/// Whether output is text or JSON.
struct OutputOptions: ParsableArguments {
    @Flag(name: .long, help: "Print JSON. The same as --output=json.")
    var json = false

    @Option(name: .long, help: ArgumentHelp("human or json.", valueName: "form"))
    var output: OutputForm?

    var isJSON: Bool { json || output == .json }
}

enum OutputForm: String, ExpressibleByArgument, CaseIterable {
    case human, json
}

extension ImageFormat: ExpressibleByArgument {}

/// A number of bytes, as in `4096`, `64k`, `1.5G`.
struct ByteCount: ExpressibleByArgument {
    let bytes: UInt64

    init(_ bytes: UInt64) { self.bytes = bytes }
    init?(argument: String) {
        guard let bytes = ByteSize.parse(argument) else { return nil }
        self.bytes = bytes
    }
    var defaultValueDescription: String { String(bytes) }
}

/// qemu-img's cache modes.
enum CacheMode: String, ExpressibleByArgument, CaseIterable {
    case none, writeback, writethrough, directsync, unsafe

    var isDirect: Bool { self == .none || self == .directsync }
}
