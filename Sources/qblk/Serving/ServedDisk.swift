// One disk of `serve`, named by the plain options or by one `--export`. Both have the same meaning and the same limits.

import ArgumentParser
import DiskTypes
import Glibc
import ImageChain
import LinuxIO
import VhostUserBlk
import SystemPackage

struct ServedDisk {
    var image: FilePath
    var socketPath: FilePath?
    var fd: Int32?
    var format: ImageFormat?
    var isReadOnly = false
    var snapshot: String?
    var queues = 1
    var serial = ""

    init(_ image: FilePath) { self.image = image }

    /// Parses `image=P,socket-path=S,...` as QEMU writes option lists: `,,` is a comma in a value.
    init(parsing text: String, queues: Int, serial: String) throws {
        image = FilePath()
        self.queues = queues
        self.serial = serial
        for part in Self.parts(of: text) {
            let pair = part.unicodeScalars.split(
                separator: "=", maxSplits: 1, omittingEmptySubsequences: false
            ).map { String($0) }
            try take(pair[0], pair.count > 1 ? pair[1] : nil, of: text)
        }
        guard !image.isEmpty else { throw ValidationError("--export \(text): image= is missing") }
    }

    private static func parts(of text: String) -> [String] {
        // By Unicode scalars: a combining character after a comma would make another Character of it.
        var parts = [String.UnicodeScalarView()]
        var rest = text.unicodeScalars[...]
        while let scalar = rest.popFirst() {
            if scalar != "," {
                parts[parts.count - 1].append(scalar)
            } else if rest.first == "," {
                rest.removeFirst()
                parts[parts.count - 1].append(",")
            } else {
                parts.append(String.UnicodeScalarView())
            }
        }
        return parts.map { String($0) }
    }

    private mutating func take(_ key: String, _ value: String?, of text: String) throws {
        func needed() throws -> String {
            guard let value, !value.isEmpty else { throw ValidationError("--export \(text): \(key)= needs a value") }
            return value
        }
        func path() throws -> FilePath {
            guard let path = FilePath(argument: try needed()) else {
                throw ValidationError("--export \(text): \(key)=")
            }
            return path
        }
        switch key {
        case "image": image = try path()
        case "socket-path": socketPath = try path()
        case "fd": fd = try number(needed(), 0...1 << 20, key, text)
        case "queues": queues = try number(needed(), 1...VhostUserServer.queueLimit, key, text)
        case "serial":
            serial = try needed()
            guard serial.utf8.count <= 20 else {
                throw ValidationError("--export \(text): serial has 20 bytes at most")
            }
        case "snapshot": snapshot = try needed()
        case "format":
            guard let known = ImageFormat(rawValue: try needed()) else {
                throw ValidationError("--export \(text): format is qcow2 or raw")
            }
            format = known
        case "read-only":
            guard value == nil || value == "on" || value == "off" else {
                throw ValidationError("--export \(text): read-only is on or off")
            }
            isReadOnly = value != "off"
        default: throw ValidationError("--export \(text): there is no \"\(key)\"")
        }
    }

    private func number<T: FixedWidthInteger>(
        _ value: String, _ range: ClosedRange<T>, _ key: String, _ text: String
    ) throws -> T {
        guard let number = T(value), range.contains(number) else {
            throw ValidationError("--export \(text): \(key) takes \(range.lowerBound) to \(range.upperBound)")
        }
        return number
    }

    /// Checks the options: exactly one socket; a snapshot is read-only.
    func checked() throws -> ServedDisk {
        guard (socketPath == nil) != (fd == nil) else {
            throw ValidationError("\(image): one of socket-path and fd must be given")
        }
        var copy = self
        if snapshot != nil { copy.isReadOnly = true }
        return copy
    }

    func requiredFormat() throws -> ImageFormat? {
        try ImageFormat.required(format, path: image, readOnly: isReadOnly)
    }

    /// The socket, opened or inherited.
    func socket() throws -> ExportSocket {
        if let socketPath { return .listener(try UnixSocket.listen(socketPath)) }
        let number = fd ?? -1
        var listens: Int32 = 0
        var size = socklen_t(MemoryLayout<Int32>.size)
        guard unsafe getsockopt(number, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) == 0 else {
            throw ImageError(.system, "descriptor \(number) is no socket: \(errorText(errno))", path: image)
        }
        _ = fcntl(number, F_SETFD, FD_CLOEXEC)
        let owned = OwnedFD(taking: number)
        return listens != 0 ? .listener(UnixListener(taking: owned)) : .connection(UnixSocket(taking: owned))
    }
}
