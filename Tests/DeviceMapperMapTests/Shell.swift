// The end-to-end tests drive qemu-img, dmsetup and cmp the way a user does: by the shell. Foundation's Process wants
// sockets, which the guest's small kernel does not have; popen wants nothing.

import Foundation
import Glibc
import Testing

struct ShellResult: Sendable {
    let status: Int32
    let out: String
}

/// Runs a bash script; stderr goes along with stdout, so that a failing test shows why.
@discardableResult
func sh(_ script: String) throws -> ShellResult {
    let quoted = "set -euo pipefail; PATH=$PATH:/usr/sbin:/sbin; exec 2>&1 </dev/null\n\(script)"
        .replacingOccurrences(of: "'", with: "'\\''")
    guard let pipe = popen("exec bash -c '\(quoted)'", "re") else { throw CocoaError(.fileReadUnknown) }
    var bytes: [UInt8] = []
    var piece = [UInt8](repeating: 0, count: 65536)
    while true {
        let count = fread(&piece, 1, piece.count, pipe)
        if count == 0 { break }
        bytes += piece[..<count]
    }
    let status = pclose(pipe)
    return ShellResult(status: (status >> 8) & 0xff | status & 0x7f, out: String(decoding: bytes, as: UTF8.self))
}

/// Runs a script that must succeed; its output.
@discardableResult
func must(_ script: String, sourceLocation: SourceLocation = #_sourceLocation) throws -> String {
    let result = try sh(script)
    #expect(result.status == 0, "\(script)\n\(result.out)", sourceLocation: sourceLocation)
    return result.out
}
