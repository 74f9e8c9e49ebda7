// The options that a VM needs for a disk on a vhost-user socket, as `serve` prints them to be pasted. The VM's memory
// must be shared and its options must fit together.

/// What to add to a virtual machine that is not started yet, for a disk served on a socket.
enum ServeAdvice {
    /// QEMU's arguments, an option and its value a line. `memory` is all of the VM's memory, as for `-m`.
    static func qemuArguments(
        socket: String, queues: Int, packed: Bool = false, memory: String = "2G", id: String = "qblk0"
    ) -> String {
        let device =
            "vhost-user-blk-pci,id=\(id),chardev=\(id)-socket,num-queues=\(queues)\(packed ? ",packed=on" : "")"
        let lines = [
            "-m \(memory)",
            "-object memory-backend-memfd,id=\(id)-memory,size=\(memory),share=on",
            "-machine memory-backend=\(id)-memory",
            "-chardev \(shellWord("socket,id=\(id)-socket,path=\(optionValue(socket)),reconnect-ms=100"))",
            "-device \(device)",
        ]
        return lines.joined(separator: "\n") + "\n"
    }

    /// The two elements for a libvirt domain.
    static func libvirtXML(socket: String, queues: Int, packed: Bool = false, target: String = "vda") -> String {
        let ring = packed ? " packed='on'" : ""
        return """
            <!-- in <domain>: -->
            <memoryBacking>
              <source type='memfd'/>
              <access mode='shared'/>
            </memoryBacking>
            <!-- in <devices>: -->
            <disk type='vhostuser' device='disk'>
              <driver name='qemu' type='raw' queues='\(queues)'\(ring)/>
              <source type='unix' path='\(attribute(socket))'>
                <reconnect enabled='yes' timeout='1'/>
              </source>
              <target dev='\(target)' bus='virtio'/>
            </disk>

            """
    }

    /// In an option of QEMU a comma ends the value; two commas are one in it.
    private static func optionValue(_ text: String) -> String {
        text.split(separator: ",", omittingEmptySubsequences: false).joined(separator: ",,")
    }

    /// Quoted for the shell where that is needed.
    private static func shellWord(_ text: String) -> String {
        let harmless = text.utf8.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"): true
            case UInt8(ascii: "0")...UInt8(ascii: "9"): true
            default: "-_.,=/:+@%".utf8.contains(byte)
            }
        }
        return harmless
            ? text
            : "'" + text.split(separator: "'", omittingEmptySubsequences: false).joined(separator: #"'\''"#) + "'"
    }

    private static func attribute(_ text: String) -> String {
        text.map { character in
            switch character {
            case "&": "&amp;"
            case "<": "&lt;"
            case ">": "&gt;"
            case "'": "&apos;"
            case "\"": "&quot;"
            default: String(character)
            }
        }.joined()
    }
}
