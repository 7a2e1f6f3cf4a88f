#!/bin/busybox sh
# The guest's first process: reaches the host's files, lays a writable layer over them, and hands over to the job.
# guest.py adds two files to the archive: /job, the script to run, and /checkout, the folder it runs in.
export PATH=/bin
/bin/busybox --install -s /bin

die() {
	echo "lab: $*"
	poweroff -f
}

mkdir -p /proc /sys /dev /lower /layer /root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev || die "no kernel file systems"

while read -r module; do
	insmod "$module" || die "cannot load $module"
done </modules/order

p9=trans=virtio,version=9p2000.L,msize=512000
mount -t 9p -o "ro,$p9,cache=loose" root /lower || die "cannot reach the host's files"
mount -t tmpfs -o size=75% tmpfs /layer && mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/lower,upperdir=/layer/upper,workdir=/layer/work overlay /root || die "no overlay"

# The host's own /run and /tmp, with its locks and sockets, would only mislead what runs here.
mkdir -p /root/proc /root/sys /root/dev /root/run /root/tmp /root/lib/modules /root/share /checkout-folder
checkout=$(cat /checkout)
mount --bind "/root$checkout" /checkout-folder || die "no folder $checkout"
mount -t tmpfs -o mode=755 tmpfs /root/run
mount -t tmpfs -o mode=1777 tmpfs /root/tmp
# But a checkout can lie in /tmp.
[ -d "/root$checkout" ] || { mkdir -p "/root$checkout" && mount --bind /checkout-folder "/root$checkout"; }
umount /checkout-folder
mount -t 9p -o "ro,$p9,cache=loose" modules /root/lib/modules || die "cannot reach the modules"
mount -t 9p -o "rw,$p9,cache=mmap" share /root/share || die "cannot reach the share"

# There is no udev: make by hand what it would.
ln -s /proc/self/fd /dev/fd
ln -s /proc/self/fd/0 /dev/stdin
ln -s /proc/self/fd/1 /dev/stdout
ln -s /proc/self/fd/2 /dev/stderr
mkdir -p /dev/pts /dev/shm /dev/net
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
[ -e /dev/net/tun ] || mknod -m 666 /dev/net/tun c 10 200

# The port for the job's output appears some moments after its driver.
find_port() {
	tries=200
	while [ $tries -gt 0 ]; do
		name=$(grep -lx output /sys/class/virtio-ports/*/name 2>/dev/null) && return
		tries=$((tries - 1))
		usleep 20000
	done
	die "no port for the job's output"
}
find_port
ln -s "/dev/$(basename "$(dirname "$name")")" /dev/lab-output

mkdir -p /root/run/lab /root/run/lock /root/run/netns
cp /bin/busybox /job /root/run/lab/
mount --move /proc /root/proc
mount --move /sys /root/sys
mount --move /dev /root/dev
exec switch_root /root /bin/sh /run/lab/job
