// A trait is one thing that QCOW2 images can do (facts of the format, one by one), with the recipe that makes an
// image showing it. Images are made once a run, when a test first asks, and shared by all tests: tests must never
// change them.

import Foundation
import Synchronization

public struct ImageTrait: Sendable, CustomStringConvertible {
    public let name: String
    /// The image to open, in the recipe's folder.
    public var image = "image.qcow2"
    public var format = "qcow2"
    /// Snapshots to read, as `convert -l` takes them.
    public var snapshots: [String] = []
    /// Too large to be written out: its map is compared instead.
    public var huge = false
    /// qemu-img cannot open it (but the data is there): the recipe leaves `reference.raw`.
    public var qemuRefuses = false
    /// Folders, relative to the recipe's, that the user allows besides the image's own.
    public var allowed: [String] = []
    /// Programs must run in the image's folder: QEMU reads a data file's relative name from there.
    public var runsInFolder = false
    /// What `qemu-img check` may exit with.
    public var check: Set<Int32> = [0]
    let recipe: @Sendable (ImageBuilder) throws -> Void

    init(_ name: String, _ recipe: @escaping @Sendable (ImageBuilder) throws -> Void) {
        self.name = name
        self.recipe = recipe
    }

    /// The same trait with some of its properties set.
    func with(_ change: (inout ImageTrait) -> Void) -> ImageTrait {
        var copy = self
        change(&copy)
        return copy
    }

    public var description: String { name }

    public static let all: [ImageTrait] =
        clusters + compression + subclusters + chains + snapshotted + external + sizes + headers + oddities

    /// The trait of a name; a misspelt one is a fault of the test.
    public static func named(_ name: String) -> ImageTrait {
        guard let found = all.first(where: { $0.name == name }) else { fatalError("no trait \(name)") }
        return found
    }
}

/// An image that has been made, and how to name it to a program.
public struct MadeImage: Sendable {
    public let trait: ImageTrait
    public let folder: String
    public var path: String { "\(folder)/\(trait.image)" }
    /// --allow-path options, for qblk only.
    public var allowances: [String] { trait.allowed.flatMap { ["--allow-path", "\(folder)/\($0)"] } }

    /// The folder to run programs in; nil = any.
    public var runFolder: String? { trait.runsInFolder ? folder : nil }

    /// The guest's bytes by qemu-img's word.
    public func reference() throws -> String {
        let reference = "\(folder)/reference.raw"
        return try Once.run("reference:\(trait.name)") {
            if !trait.qemuRefuses {
                let arguments = ["qemu-img", "convert", "-f", trait.format, "-O", "raw", path, reference]
                try Command(arguments, in: runFolder).succeed()
            }
            return reference
        }
    }

    /// A verb of the program under test on this image: `verb ALLOWANCES OPTIONS IMAGE REST`.
    public func qblk(_ verb: String, _ options: [String] = [], rest: [String] = []) throws -> Outcome {
        try Command([Tools.qblk, verb] + allowances + options + [path] + rest, in: runFolder).run()
    }

    /// The same of qemu-img.
    public func qemu(_ verb: String, _ options: [String] = [], rest: [String] = []) throws -> Outcome {
        try Command(["qemu-img", verb] + options + [path] + rest, in: runFolder).run()
    }
}

extension ImageTrait {
    /// Makes the image, or returns the one made before.
    public func made() throws -> MadeImage {
        let folder = try Once.run("image:\(name)") {
            let folder = try Scratch.newFolder(name)
            let builder = ImageBuilder(folder: folder)
            try recipe(builder)
            try builder.settle()
            return folder
        }
        return MadeImage(trait: self, folder: folder)
    }
}

/// Work that is done once per key in a run; others who ask meanwhile wait for it.
public enum Once {
    private final class Slot: Sendable {
        let result = Mutex<Result<String, any Error>?>(nil)
    }
    private static let slots = Mutex<[String: Slot]>([:])

    public static func run(_ key: String, _ work: () throws -> String) throws -> String {
        let slot = slots.withLock { slots -> Slot in
            if let slot = slots[key] { return slot }
            let slot = Slot()
            slots[key] = slot
            return slot
        }
        return try slot.result.withLock { result in
            if let result { return try result.get() }
            let fresh = Result { try work() }
            result = fresh
            return try fresh.get()
        }
    }
}
