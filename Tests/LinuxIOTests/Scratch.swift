// Tests need files of their own, gone afterwards, on a disk and in memory.
import Glibc
import LinuxIO
import TestKit

/// A directory of one test, removed with it.
final class Scratch {
    let path: String

    init(in parent: String = "/tmp") throws {
        path = "\(parent)/qblk-test-\(getpid())-\(UInt32.random(in: 0...UInt32.max))"
        guard mkdir(path, 0o700) == 0 else { throw TestFailure("cannot make \(path): \(errorText(errno))") }
    }

    deinit {
        // Only what tests make: a flat directory.
        if let entries = opendir(path) {
            while let entry = readdir(entries) {
                let name = withUnsafePointer(to: &entry.pointee.d_name) {
                    $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
                }
                unlink("\(path)/\(name)")
            }
            closedir(entries)
        }
        rmdir(path)
    }

    func file(_ name: String, _ bytes: [UInt8] = []) throws -> String {
        let place = "\(path)/\(name)"
        let fd = open(place, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard fd >= 0 else { throw TestFailure("cannot make \(place): \(errorText(errno))") }
        defer { close(fd) }
        guard bytes.withUnsafeBytes({ write(fd, $0.baseAddress, $0.count) }) == bytes.count else {
            throw TestFailure("cannot write \(place)")
        }
        return place
    }
}

/// A pattern in which every place looks different from its neighbours.
func pattern(_ count: Int, seed: UInt8 = 1) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ ($0 >> 8) &+ Int(seed)) }
}

let hasRoot = geteuid() == 0
func exists(_ path: String) -> Bool { access(path, F_OK) == 0 }
