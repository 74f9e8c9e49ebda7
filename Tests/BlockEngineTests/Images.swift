// The engine is tested on images that QEMU made, against what QEMU itself reads out of them.
import DiskTypes
import Glibc
import ImageChain
import SystemPackage
import TestKit

let hasQemuImg = access("/usr/bin/qemu-img", X_OK) == 0 || system("command -v qemu-img >/dev/null 2>&1") == 0

/// A folder of one test and the images in it, removed with it.
final class Images {
    let folder: String

    init(in parent: String = "/tmp") throws {
        folder = "\(parent)/qblk-engine-\(getpid())-\(UInt32.random(in: 0...UInt32.max))"
        guard mkdir(folder, 0o700) == 0 else { throw TestFailure("cannot make \(folder)") }
    }
    deinit { _ = system("rm -rf '\(folder)'") }

    func path(_ name: String) -> String { "\(folder)/\(name)" }

    /// Runs a command line in the folder.
    func run(_ command: String) throws {
        guard system("cd '\(folder)' && (\(command)) >log 2>&1") == 0 else {
            throw TestFailure("\(command): \(String(decoding: (try? bytes("log")) ?? [], as: UTF8.self))")
        }
    }

    func bytes(_ name: String) throws -> [UInt8] {
        let fd = Glibc.open(path(name), O_RDONLY | O_CLOEXEC)
        guard fd >= 0 else { throw TestFailure("cannot open \(name)") }
        defer { close(fd) }
        let size = Int(lseek(fd, 0, SEEK_END))
        return try [UInt8](unsafeUninitializedCapacity: size) { memory, count in
            while count < size {
                let n = pread(fd, memory.baseAddress.map { $0 + count }, size - count, off_t(count))
                guard n > 0 else { throw TestFailure("cannot read \(name)") }
                count += n
            }
        }
    }

    func write(_ name: String, _ bytes: [UInt8], at offset: Int = 0, truncate: Bool = true) throws {
        let fd = Glibc.open(path(name), O_WRONLY | O_CREAT | O_CLOEXEC | (truncate ? O_TRUNC : 0), 0o600)
        guard fd >= 0 else { throw TestFailure("cannot make \(name)") }
        defer { close(fd) }
        guard bytes.withUnsafeBytes({ pwrite(fd, $0.baseAddress, $0.count, off_t(offset)) }) == bytes.count else {
            throw TestFailure("cannot write \(name)")
        }
    }

    /// A raw disk with data, repetitions and holes in runs of many sizes.
    @discardableResult func disk(_ name: String, size: Int, seed: UInt64 = 1) throws -> [UInt8] {
        var random = SeededRandom(seed)
        var noise = [UInt8]()
        for _ in 0..<1024 { withUnsafeBytes(of: random.next()) { noise.append(contentsOf: $0) } }
        var bytes = [UInt8](repeating: 0, count: size)
        // Not element by element: a debug build takes a second a megabyte for that.
        bytes.withUnsafeMutableBytes { all in
            guard let base = all.baseAddress else { return }
            var at = 0
            while at < size {
                let end = min(at + 512 * (1 + random.below(1 << random.below(9))), size)
                switch random.below(4) {
                case 0: break
                case 1: memset(base + at, Int32(random.below(255) + 1), end - at)
                default:
                    var place = at
                    while place < end {
                        let from = random.below(4096)
                        let part = min(end - place, 4096 - random.below(64))
                        _ = noise.withUnsafeBytes { $0.baseAddress.map { memcpy(base + place, $0 + from, part) } }
                        place += part
                    }
                }
                at = end
            }
        }
        try write(name, bytes)
        return bytes
    }

    /// What QEMU reads out of an image.
    func truth(_ name: String, format: String = "qcow2") throws -> [UInt8] {
        try run("qemu-img convert -f \(format) -O raw '\(name)' truth.raw")
        return try bytes("truth.raw")
    }

    func open(
        _ name: String, direct: Bool = true, l2CacheLimit: UInt64 = 64 << 20, writable: Bool = false,
        format: ImageFormat? = nil
    ) throws -> ImageChain {
        var options = OpenOptions()
        options.writable = writable
        options.format = format
        options.direct = direct
        options.l2CacheLimit = l2CacheLimit
        return try ImageChain.open(path: FilePath(path(name)), options: options)
    }
}
