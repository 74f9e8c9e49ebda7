// Images are made by the peer, qemu-img and qemu-io, never by the code under test. A workshop is the folder in which
// one image is made, with the few steps that recipes are written in.

import Foundation

public struct ImageBuilder: Sendable {
    public let folder: String

    public init(folder: String) { self.folder = folder }

    public func path(_ name: String) -> String { "\(folder)/\(name)" }

    /// A step of qemu-img, run inside the folder.
    public func img(_ arguments: String...) throws {
        try Command(["qemu-img"] + arguments, in: folder).succeed()
    }

    /// A step of any other program, run inside the folder.
    public func run(_ arguments: String...) throws {
        try Command(arguments, in: folder).succeed()
    }

    /// `qemu-img create`; `backing` is "format:name".
    public func create(
        _ size: String, _ options: String = "", backing: String? = nil, as name: String = "image.qcow2"
    ) throws {
        var arguments = ["qemu-img", "create", "-q", "-f", "qcow2"]
        if !options.isEmpty { arguments += ["-o", options] }
        if let backing {
            let parts = backing.split(separator: ":", maxSplits: 1).map(String.init)
            arguments += ["-F", parts[0], "-b", parts[1]]
        }
        try Command(arguments + [name, size].filter { !$0.isEmpty }, in: folder).succeed()
    }

    /// qemu-io commands, all in one session. Discards reach the file (they do not by default).
    public func io(_ commands: [String], on name: String = "image.qcow2", options: [String] = []) throws {
        let steps = commands.flatMap { ["-c", $0] }
        let outcome = try Command(
            ["qemu-io", "-f", "qcow2", "-d", "unmap"] + options + steps + [name], in: folder
        ).run()
        // sigraise ends the session as a crash would: that is asked for, a failed write is not.
        let crashed = commands.contains { $0.hasPrefix("sigraise") || $0 == "abort" }
        guard outcome.exit == 0 || crashed, !outcome.output.contains("failed") else {
            throw CommandFailure(outcome: outcome)
        }
    }

    /// Writes in places where implementations stumble: the start, an unaligned middle, a long run, zeros inside it, and
    /// the very last bytes. `salt` tells layers apart.
    public func scribble(_ size: Int, salt: Int = 0, on name: String = "image.qcow2") throws {
        let eighth = max(size / 8 & ~511, 512)
        try io(
            [
                "write -P \(0x11 + salt) 0 \(min(eighth, 65536))",
                "write -P \(0x22 + salt) \(size / 4 + 1234) 5000",
                "write -P \(0x33 + salt) \(size / 2) \(eighth)",
                "write -z \(size / 2 + eighth / 4) \(eighth / 4)",
                "write -P \(0x44 + salt) \(size - 700) 700",
            ], on: name)
    }

    /// A raw file of text, zeros and noise in turns: part compresses well, part not at all.
    public func rawFile(_ name: String, _ size: Int, seed: UInt64 = 1) throws {
        var bytes = Data(capacity: size)
        var noise = SeededRandom(seed)
        var stretch = 0
        while bytes.count < size {
            let length = 4096 + Int(noise.next() % 48) * 1024
            switch stretch % 3 {
            case 0: bytes.append(Data((0..<length).map { UInt8(truncatingIfNeeded: 32 + ($0 / 7 + stretch) % 64) }))
            case 1: bytes.append(noise.bytes(length))
            default: bytes.append(Data(count: length))
            }
            stretch += 1
        }
        try bytes.prefix(size).write(to: URL(filePath: path(name)))
    }

    /// Makes every file's holes a property of the file alone. Space that is reserved but never written (QEMU reserves
    /// whole clusters) counts as a hole until it is read: then its pages are in the cache, and the kernel calls
    /// them data. So who reads an image would change what `map` and `extents` say of it. Here such space is written
    /// out as zeros; true holes stay holes.
    public func settle() throws {
        let each = """
            for file; do
              cat "$file" >/dev/null && cp -p --reflink=never --sparse=auto "$file" "$file.settled" &&
                sync "$file.settled" && mv "$file.settled" "$file" || exit 1
            done
            """
        try run("find", ".", "-type", "f", "-exec", "sh", "-c", each, "sh", "{}", "+")
    }

    /// Changes bytes of an image in place.
    public func patch(_ name: String = "image.qcow2", _ body: (inout Patcher) throws -> Void) throws {
        var patcher = try Patcher(path(name))
        try body(&patcher)
        try patcher.save()
    }
}
